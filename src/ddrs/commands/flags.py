"""What the verbs share: the flags that several of them have, and settings models as flags."""

import functools
import inspect
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ddrs.errors import DdrsError
from ddrs.files import output_file, output_folder
from ddrs.sections import COUNT_MAX, SEED_MAX, Section, SplitName

app = typer.Typer()  # the verbs of the modules that are loaded by now

Data = Annotated[Path, typer.Option("--data", help="dataset manifest, from `ddrs fetch` (read)")]
Model = Annotated[Path, typer.Option("--model", help="checkpoint, from `ddrs train` or `ddrs finetune` (read)")]
Architecture = Annotated[
    str | None, typer.Option("--architecture", help="package.module:factory that the checkpoint may run, where its model is of your own")
]
Out = Annotated[Path, typer.Option("--out", callback=output_file, help="file to write")]
OutDir = Annotated[Path, typer.Option("--out-dir", callback=output_folder, help="folder to write into")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=SEED_MAX, help="seed of everything random")]
SplitFlag = Annotated[SplitName, typer.Option("--split", help="whose images")]
Images = Annotated[int | None, typer.Option("--images", min=1, max=COUNT_MAX, help="how many images of the split, evenly spaced; default: all")]
Logs = Annotated[list[Path], typer.Argument(help="certification logs (read)")]
Validation = Annotated[
    list[Path] | None, typer.Option("--validation", help="log of validation images, which choose sigma and K instead; repeat for more (read)")
]
Before = Annotated[
    list[Path] | None, typer.Option("--before", help="log from before the memory, on which every second image chooses; repeat for more (read)")
]
Csv = Annotated[Path, typer.Option("--csv", callback=output_file, help="table to write")]
Md = Annotated[Path, typer.Option("--md", callback=output_file, help="the same as Markdown, with its caption")]
Pdf = Annotated[Path, typer.Option("--pdf", callback=output_file, help="figure to write")]
CaptionFile = Annotated[Path | None, typer.Option("--caption", callback=output_file, help="Markdown to write: the figure's caption")]
Title = Annotated[str, typer.Option("--title", help="what the caption calls the figure, as Figure 3")]
Recipes = Annotated[list[str] | None, typer.Option("--recipe", help="how models and sigmas shown were made, for the caption; repeat for more")]
Png = Annotated[Path, typer.Option("--png", callback=output_file, help="the same as PNG")]
Radii = Annotated[str, typer.Option("--radii", help="radii, separated by commas")]


def say(line: str) -> None:
    print(line, flush=True)


def parse_radii(text: str) -> list[float]:
    """Radii of a comma-separated list: finite, >= 0, increasing."""
    return parse_increasing("--radii", text, float("inf"))


def parse_increasing(flag: str, text: str, end: float) -> list[float]:
    """Numbers of a comma-separated list: finite, from 0 to `end`, increasing."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise DdrsError(f"{flag} {text!r}: must be numbers separated by commas") from None
    if not all(0 <= value <= end and value < float("inf") for value in values) or any(a >= b for a, b in pairwise(values)):
        raise DdrsError(f"{flag} {text!r}: must be finite, >= 0{'' if end == float('inf') else f', <= {end:g}'} and increasing")
    return values


def with_settings(verb: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter annotated with a Section by one flag per field; the verb gets the checked settings."""
    signature = inspect.signature(verb, eval_str=True)
    sections: dict[str, type[Section]] = {}
    parameters = []
    for parameter in signature.parameters.values():
        if inspect.isclass(parameter.annotation) and issubclass(parameter.annotation, Section):
            sections[parameter.name] = parameter.annotation
            parameters += [_flag(name, field) for name, field in parameter.annotation.model_fields.items()]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(verb)
    def command(**given: Any) -> None:
        for name, section in sections.items():
            values = {field: given.pop(field) for field in section.model_fields}
            given[name] = section.checked(**{k: _mapping(v) if _is_mapping(section.model_fields[k]) else v for k, v in values.items()})
        verb(**given)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _is_mapping(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is dict


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    kind: Any = list[str] if _is_mapping(field) else field.annotation
    if get_origin(kind) is list:  # typer wants the bare type; the ranges are checked by the section
        kind = list[getattr(get_args(kind)[0], "__origin__", get_args(kind)[0])]
    default = field.default
    if default is PydanticUndefined:
        default = ...
    elif _is_mapping(field):
        default = [f"{key}={value}" for key, value in default.items()]
    help_text = (field.description or name) + (" (repeat as NAME=VALUE)" if _is_mapping(field) else "")
    option = typer.Option("--" + name.replace("_", "-"), help=help_text)
    annotation = Annotated[kind, option]
    given = inspect.Parameter.empty if default is ... else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=given, annotation=annotation)


def _mapping(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise DdrsError(f"{pair!r}: must be NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)

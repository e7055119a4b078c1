"""Settings models as command line flags: one definition of each name, type, default, range and help text."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer
from pydantic import AfterValidator, Field
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ddrs.errors import DdrsError
from ddrs.files import output_file, output_folder
from ddrs.sections import THREADS_MAX, Section

if TYPE_CHECKING:
    import torch


class Runtime(Section):
    """How a step runs. No setting of the experiment; but training bytes depend on the threads, and a GPU draws other noise than a CPU."""

    threads: int = Field(1, ge=1, le=THREADS_MAX, description="CPU threads")
    device: str = Field("cpu", description="cpu, cuda or cuda:N")
    scratch: Annotated[Path, AfterValidator(output_folder)] = Field(
        Path("scratch"), description="folder for partial files, from which a killed step resumes"
    )
    sidecar: Annotated[Path | None, AfterValidator(output_file)] = Field(None, description="JSON to write with commit, versions, device and time")


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


def machine(runtime: Runtime, device: "torch.device") -> list[int | str]:
    """What the bytes of a result depend on beside its settings and code: a killed step does not go on under another of these."""
    import torch

    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return [runtime.threads, device.type, kind, torch.__version__]


def prepare(runtime: Runtime) -> "torch.device":
    """Set torch's threads and find the device, of several GPUs a free one; DdrsError if this machine has no such device."""
    import torch

    from ddrs.gpus import take_card
    from ddrs.models import resolve_device

    torch.set_num_threads(runtime.threads)
    if runtime.device == "cuda":  # cuda:N is a choice of its own
        take_card(lambda line: print(line, flush=True))
    return resolve_device(runtime.device)

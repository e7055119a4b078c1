"""Which files a change of each key of the config makes again in the finished run: what reads the key and what stands on that, and no others."""

import re
import types
import typing
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from pydantic import BaseModel
from running import TINY, dry

from ddrs.experiment.config import Config

# Patterns of paths below results/. Snakemake goes by times, so whatever stands on a file that is made again is made again too: every pattern below
# goes on to the tables, figures and pages.
TABLE = {"cohen": 1, "smoothadv": 2, "macer": 3, "yang": 4}
FIGURES = {"cohen": "39", "smoothadv": "4678", "macer": "5", "yang": "7"}  # that a method is in
OF_DS2 = {"cohen": "3", "smoothadv": "47", "macer": "5"}  # of them, that show its row ds2


def any_of(*patterns: str) -> str:
    return "|".join(f"(?:{pattern})" for pattern in patterns)


def figures(numbers: str) -> str:
    return rf"(captions/|pages/)?figure[{numbers}]\.\w+"


def of_cells(numbers: str) -> str:
    """What is made of the cells of some tables. The claims are of all tables."""
    return rf"(pages/)?((per_class_)?table[{numbers}](_\w+)?|claims)\.\w+"


def tables(numbers: str) -> str:
    """What is made of the cells and logs of some tables."""
    return any_of(of_cells(numbers), rf"(captions/|pages/)?p_lower_table[{numbers}]\.\w+")


def cells(numbers: str, rows: str = r"[\w-]+", columns: str = ".*") -> str:
    return rf"cells/table[{numbers}](_selected)?/mnist5k/{rows}/{columns}\.json"


def trained(method: str) -> str:
    """All that stands on the models of a fixed sigma: everything of the method."""
    number = str(TABLE[method])
    made = rf"(models|sigmas|certificates|memory)/mnist5k/(\w+/)?{method}/.*"
    return any_of(made, cells(number), tables(number), figures(FIGURES[method]))


def finetuned(method: str, said: bool = False) -> str:
    """All that stands on the models of DS2 training. said: captions name the setting, and so do those of the other rows' cells and figures."""
    number = str(TABLE[method])
    made = rf"(models|sigmas|certificates|memory)/mnist5k/(\w+/)?{method}/ds2/.*"
    return any_of(made, cells(number, r"[\w-]+" if said else ".*-ds2"), tables(number), figures((FIGURES if said else OF_DS2)[method]))


def searched(searches: str = "fs|ds2|gds", rows: str = "ds|ds2|gds", said: bool = False) -> str:
    """All that stands on searches, and on no other. said: as of `finetuned`."""
    made = rf"sigmas/mnist5k/\w+/\w+/({searches})/.*|(certificates|memory)/mnist5k/\w+/\w+/({rows})/.*"
    return any_of(made, cells("1-4", r"[\w-]+" if said else ".*-ds2?"), tables("1-4"), figures("3-9"))


GRID_OF_8 = r"\w+/mnist5k/test/smoothadv/gds/sigma_\d\.\d\d\.K_8\.\w+"
CERTIFIED = any_of("(certificates|memory)/.*", cells("1-4"), tables("1-4"), figures("3-9"))
OF_TEST = any_of("(certificates|memory)/mnist5k/test/.*", cells("1-4"), tables("1-4"), figures("3-9"))
# Tables that choose on the test images read none of validation, nor do figures.
CHOICES = any_of(r"cells/table\d_selected/.*", r"(captions/|pages/)?(per_class_table\d|p_lower_table\d|table\d_(selected|comparison)|claims)\.\w+")
OF_VALIDATION = any_of("(certificates|memory)/mnist5k/validation/.*", CHOICES)


class Change(NamedTuple):
    """A key's new value and the files that it makes again."""

    path: str
    value: Any
    again: str = "(?!)"
    new: tuple[tuple[str, str], ...] = ()  # files that the finished run lacks: pattern of one that it has, and the name beside it
    also: tuple[tuple[str, Any], ...] = ()  # what the model asks for beside it


def of_panels(key: str, **values: tuple) -> list[Change]:
    """A change of the first panel of some figures, each with the value and then as in Change; by itself it draws the figure again."""
    return [Change(f"figures.{name}.0.{key}", value, any_of(figures(name[-1])), *new) for name, (value, *new) in values.items()]


# Changes of one list stand in one dry run, to spare time: each makes files again that no other of the list does.
CHANGES: dict[str, list[Change]] = {
    "nothing is read of": [
        Change("device", "cuda"),  # how a job runs, which is no part of the experiment
        Change("datasets.mnist5k.source", "/nowhere"),  # data is pinned once it is fetched
        Change("train.mnist5k.cohen.milestones", [7]),  # schedule: cosine
        Change("train.mnist5k.cohen.gamma", 0.5),
        Change("finetune.mnist5k.smoothadv.train.milestones", [7]),
        Change("finetune.mnist5k.smoothadv.train.gamma", 0.5),
        Change("certify.mnist5k.spending", "log"),  # protocol: fixed
        Change("certify.mnist5k.radius_loss", 0.5),
    ],
    "seed": [Change("seed", 1, ".*")],
    "tables": [Change("tables.table1", [], r"(pages/)?claims\.\w+")],
    # Figures 6 and 9 show examples from logs that the tables have, 7 and 8 also runs of their own.
    "method of a panel": of_panels(
        "method",
        figure6=("cohen",),
        figure7=("cohen", ((r"(.*/test)/smoothadv(/ds2/sigma_0\.25\.K_0\.tsv)", r"\1/cohen\2"),)),
        figure8=("cohen", ((r"(.*/test)/smoothadv(/(?:gds/.*|ds/.*\.K_4\.tsv))", r"\1/cohen\2"),)),
        figure9=("smoothadv",),
    ),
    "sigma of a panel": of_panels(
        "sigma",
        figure6=(0.25,),
        figure7=(0.50, ((r"(.*/smoothadv/ds2/)sigma_0\.25(\.K_0\.tsv)", r"\1sigma_0.50\2"),)),
        figure9=(0.50,),
    ),
    "K of a panel": of_panels(
        "k",
        figure6=(5,),
        figure7=([0, 20],),
        figure8=(5, ((r"(.*/gds/.*\.K_)8(\.\w+)", r"\g<1>10\2"), (r"(.*/gds/.*\.K_)4(\.\w+)", r"\g<1>5\2"))),
        figure9=(5,),
    ),
    "images of a panel": of_panels("quantiles", figure6=([0.5],), figure9=([0.5],)),
    "row and grids of a panel": [
        *of_panels("row", figure7=("ds",)),  # whose K = 0 is the log of row fs
        *of_panels("samples", figure8=([1, 2, 4], ((r"(.*/gds/.*\.K_)4(\.\w+)", r"\g<1>2\2"),))),
    ],
    # Figures 1 and 2 illustrate an idea with a model of their own.
    "architecture": [Change("datasets.mnist5k.architecture", "resnet18", rf"(?!{figures('12')}).*")],
    "sigmas": [
        Change(
            "datasets.mnist5k.sigmas",
            [0.25, 0.50, 1.00],
            any_of(cells("1-3"), tables("1-3"), figures("345678")),  # captions of smoothadv list epsilon at every sigma, 6 and 7 too
            new=((r"(\w+/mnist5k/(?:\w+/)?(?:cohen|smoothadv|macer)/\w+)/sigma_0\.50(.*)", r"\1/sigma_1.00\2"),),
        ),
        Change(
            "datasets.mnist5k.uniform.sigmas",
            [0.25, 0.50],
            any_of(cells("4"), tables("4")),
            new=((r"(\w+/mnist5k/(?:\w+/)?yang/\w+)/sigma_0\.50(.*)", r"\1/sigma_0.25\2"),),
        ),
    ],
    "radii": [  # protocol: fixed, so certification does not read them
        Change("datasets.mnist5k.radii", [0.0, 0.25], any_of(cells("1-3", columns=r"(0\.00|0\.25|acr)"), of_cells("1-3"))),
        Change(
            "datasets.mnist5k.uniform.radii",
            [0.0, 0.2],
            any_of(cells("4", columns=r"(0\.00|acr)"), of_cells("4")),
            new=((r"(cells/table4.*)/0\.10\.json", r"\1/0.20.json"),),
        ),
    ],
    "test images": [Change("datasets.mnist5k.images.test", 3, any_of("sigmas/mnist5k/test/.*", OF_TEST))],
    "validation images": [Change("datasets.mnist5k.images.validation", 3, any_of("sigmas/mnist5k/validation/.*", OF_VALIDATION))],
    "models of yang, searches of macer, start of cohen": [
        Change("datasets.mnist5k.uniform.architecture", "resnet18", trained("yang")),
        Change(
            "search.mnist5k.methods.macer.samples",
            2,
            any_of(
                r"sigmas/.*/macer/.*|(certificates|memory)/.*/macer/ds2?/.*",
                cells("3"),  # the captions name n, of row fs too
                tables("3"),
                figures("5"),
            ),
        ),
        Change("finetune.mnist5k.cohen.start", "trained", finetuned("cohen", said=True), also=(("finetune.mnist5k.cohen.train", {"epochs": 1}),)),
    ],
    # Half of the methods are left alone, and stay as they are.
    "training 1": [
        Change("train.mnist5k.cohen.epochs", 3, trained("cohen")),
        Change("train.mnist5k.yang.batch_size", 64, trained("yang")),
    ],
    "training 2": [
        Change("train.mnist5k.smoothadv.loss.attack_steps", 1, trained("smoothadv")),
        Change("train.mnist5k.macer.augment", "flip", trained("macer")),
    ],
    "training 3": [
        Change("train.mnist5k.cohen.precision", "bfloat16", trained("cohen")),
        Change("train.mnist5k.smoothadv.branch_epoch", 1, trained("smoothadv")),  # the one job writes model and branch state
    ],
    "finetuning 1": [
        Change("finetune.mnist5k.cohen.step.step_size", 0.5, finetuned("cohen", said=True)),
        Change("finetune.mnist5k.smoothadv.train.epochs", 2, finetuned("smoothadv", said=True)),
        Change("finetune.mnist5k.macer.train.batch_size", 64, finetuned("macer")),
        Change("train.mnist5k.yang.optimizer", "adam", trained("yang")),
    ],
    "finetuning 2": [
        Change("finetune.mnist5k.cohen.step.samples", 2, finetuned("cohen", said=True)),
        Change("finetune.mnist5k.smoothadv.train.optimizer", "adam", finetuned("smoothadv")),
        Change("finetune.mnist5k.macer.train.learning_rate", 0.1, finetuned("macer")),
        Change("train.mnist5k.yang.learning_rate", 0.1, trained("yang")),
    ],
    "finetuning 3": [
        Change("finetune.mnist5k.cohen.step.sigma_min", 0.01, finetuned("cohen")),
        Change("finetune.mnist5k.smoothadv.train.momentum", 0.5, finetuned("smoothadv")),
        Change("finetune.mnist5k.macer.train.weight_decay", 0.1, finetuned("macer")),
        Change("train.mnist5k.yang.momentum", 0.5, trained("yang")),
    ],
    "finetuning 4": [
        Change("finetune.mnist5k.cohen.step.sigma_max", 1.5, finetuned("cohen")),
        Change("finetune.mnist5k.smoothadv.train.schedule", "constant", finetuned("smoothadv")),
        Change("finetune.mnist5k.macer.train.augment", "flip", finetuned("macer")),
        Change("train.mnist5k.yang.weight_decay", 0.1, trained("yang")),
    ],
    "finetuning 5": [
        Change("finetune.mnist5k.smoothadv.train.loss.attack_steps", 1, finetuned("smoothadv")),
        Change("finetune.mnist5k.macer.train.precision", "bfloat16", finetuned("macer")),
        Change("train.mnist5k.yang.schedule", "constant", trained("yang")),
    ],
    # A grid search takes no steps of a size, and as many points as its budget gives.
    "search step_size": [Change("search.mnist5k.step_size", 0.5, searched("fs|ds2", "ds|ds2", said=True))],
    "search k_max": [Change("search.mnist5k.k_max", 21, searched("fs|ds2", "ds|ds2", said=True))],
    "search samples": [  # double the budget of the grids: 16 points, and the 8 of another number of samples
        Change(
            "search.mnist5k.samples",
            2,
            any_of(searched("fs|ds2", "ds|ds2", said=True), GRID_OF_8),
            new=((r"(.*/gds/.*\.K_)8(\.\w+)", r"\g<1>16\2"),),
        )
    ],
    "search objective_class": [Change("search.mnist5k.objective_class", "current", searched(said=True))],
    "search sigma_min": [Change("search.mnist5k.sigma_min", 0.01, searched())],
    "search sigma_max": [Change("search.mnist5k.sigma_max", 1.5, searched())],
    "search batch_size": [Change("search.mnist5k.batch_size", 50, searched())],
    "certify n0": [Change("certify.mnist5k.n0", 50, CERTIFIED)],
    "certify n": [Change("certify.mnist5k.n", 300, OF_TEST)],
    "certify n_validation": [Change("certify.mnist5k.n_validation", 110, OF_VALIDATION)],
    "certify protocol": [Change("certify.mnist5k.protocol", "two-stage", CERTIFIED)],
    "certify bound": [Change("certify.mnist5k.bound", "joint", CERTIFIED)],
    "certify noise": [Change("certify.mnist5k.noise", "gaussian", CERTIFIED)],
    "certify precision": [Change("certify.mnist5k.precision", "bfloat16", CERTIFIED)],
    "certify alpha": [Change("certify.mnist5k.alpha", 0.01, CERTIFIED)],
    "certify total alpha": [Change("certify.mnist5k.alpha.total", 0.02, CERTIFIED)],
    "certify k": [  # one job passes all K of a row at a sigma through the memory, so the former K too
        Change(
            "certify.mnist5k.k",
            [5, 10, 20],
            any_of(r"memory/mnist5k/\w+/\w+/ds2?/sigma_\d\.\d\d\.K_(5|20)\.tsv", cells("1-4", ".*-ds2?"), tables("1-4"), figures("345679")),
            new=((r"((?:certificates|memory)/.*/ds2?/.*\.K_)20\.tsv", r"\g<1>10.tsv"),),
        )
    ],
    "certify shards": [
        Change(
            "certify.mnist5k.shards",
            2,
            CERTIFIED,
            new=tuple((r"certificates/(.*)\.tsv", rf"scratch/shards/\1/{shard}-of-2.tsv") for shard in (1, 2)),
        )
    ],
}

# Keys that no dry run of the finished run can show, and why.
EXCEPTIONS = {
    **{f"datasets.*.{key}": "another is refused once the data is fetched" for key in ("kind", "hold_out", "path", "classes", "shape")},
    **{f"checkpoints.*.*.{key}": "there are no published models of mnist5k" for key in ("format", "file", "preprocessing")},
    **{f"figures.figure{number}[].dataset": "there is one dataset" for number in (6, 7, 8, 9)},
    "search.*.strategy": "another than ascent is refused",
    "search.*.set": "ascent has no settings of its own, and any is refused",
    "search.*.strategies": "no row of the run stands on another strategy",
    "finetune.*.*.regimes": "no row of the run stands on another regime",
    "certify.*.certificates": "no row of the run stands on another certificate",
    "finetune.*.*.train.branch_epoch": "refused",
}


def leaves(model: type[BaseModel], place: str = "") -> Iterator[str]:
    """The keys of a model that hold no other model, with * for a name and [] for a place in a list."""
    for name, field in model.model_fields.items():
        yield from _leaves(field.annotation, f"{place}{field.alias or name}")


def _leaves(of: Any, key: str) -> Iterator[str]:
    inner = typing.get_args(of)
    if isinstance(of, type) and issubclass(of, BaseModel):
        yield from leaves(of, f"{key}.")
    elif not _has_model(of):
        yield key
    elif typing.get_origin(of) is dict:
        yield from _leaves(inner[1], f"{key}.*")
    elif typing.get_origin(of) is list:
        yield from _leaves(inner[0], f"{key}[]")
    elif typing.get_origin(of) is typing.Annotated:
        yield from _leaves(inner[0], key)
    else:
        assert typing.get_origin(of) in (typing.Union, types.UnionType), of
        for one in inner:
            yield from _leaves(one, key) if one is not types.NoneType else ()


def _has_model(of: Any) -> bool:
    return (isinstance(of, type) and issubclass(of, BaseModel)) or any(map(_has_model, typing.get_args(of)))


def is_at(key: str, path: str) -> bool:
    """Whether a path of a change is of a key, or goes on below it, where the key is of a mapping."""
    pattern = re.escape(key).replace(r"\*", r"\w+").replace(r"\[\]", r"\.\d+")
    return re.fullmatch(rf"{pattern}(\.\w+)?", path) is not None


def test_every_key_is_here() -> None:
    paths = [change.path for changes in CHANGES.values() for change in changes]
    changed = {max((key for key in leaves(Config) if is_at(key, path)), key=len) for path in paths}
    assert changed | set(EXCEPTIONS) == set(leaves(Config)) and not changed & set(EXCEPTIONS)


def files(folder: Path) -> dict[str, int]:
    """All that a run leaves, with its times, but for Snakemake's own log and cache of a dry run."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and not path.is_relative_to(folder / ".snakemake/log") and not path.is_relative_to(folder / ".snakemake/iocache")
    }


def put(config: dict, path: str, value: Any) -> None:
    *before, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    for part in before:
        config = config[part] if isinstance(config, list) else config.setdefault(part, {})
    config[last] = value


def expected(change: Change, have: set[str]) -> set[str]:
    beside = {re.sub(pattern, name, file) for pattern, name in change.new for file in have if re.fullmatch(pattern, file)}
    assert not beside & have
    return {file for file in have if re.fullmatch(change.again, file)} | beside


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_changed_key_makes_again_what_stands_on_it(tiny: Path, tmp_path: Path, changes: list[Change]) -> None:
    config = deepcopy(yaml.safe_load(TINY.read_text()))
    for change in changes:
        for path, value in ((change.path, change.value), *change.also):
            put(config, path, value)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    before = files(tiny)
    have = {file.removeprefix("results/") for file in before if file.startswith("results/")}
    wanted = [expected(change, have) for change in changes]
    for one, change in zip(wanted, changes, strict=True):
        others = set().union(*(other for other in wanted if other is not one))
        assert one - others or not any(wanted), f"{change.path} would not be missed"

    # A line per file that the target stands on, whose last word says whether its job runs: the jobs of a dry run, which names no files.
    done = dry("--summary", "paper", folder=tiny, config=tmp_path / "config.yaml")
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    found = {words[0].removeprefix("results/") for words in lines if words[-1] == "update pending"}
    assert found == set().union(*wanted)
    assert files(tiny) == before

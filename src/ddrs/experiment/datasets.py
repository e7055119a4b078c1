"""The part of config.yaml that says what a dataset is, and on which grid it is trained and certified."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ddrs.data.requests import HOLD_OUT, check_classes, check_shape
from ddrs.data.sources import SOURCES, source_of
from ddrs.errors import nearest
from ddrs.experiment.names import Architecture, DatasetKind
from ddrs.rows import ALTERNATE, Chooser
from ddrs.sections import COUNT_MAX, Count, Increasing, Radius, Section, Sigma

Sigmas = Annotated[list[Sigma], Increasing, Field(min_length=1)]
Radii = Annotated[list[Radius], Increasing, Field(min_length=1)]


class UniformSettings(Section):
    """What differs on a dataset for the methods that train with uniform noise and certify l1 balls."""

    architecture: Architecture | None = Field(None, description="network, by name or as package.module:factory")
    sigmas: Sigmas | None = Field(None, description="training lambdas: half-widths of the noise, which stand as sigma in paths and logs")
    radii: Radii | None = Field(None, description="l1 radius columns of the tables, increasing")


class DatasetSettings(Section):
    """What is trained and certified on a dataset, and on which grid."""

    architecture: Architecture = Field(description="network, by name or as package.module:factory")
    sigmas: Sigmas = Field(description="training sigmas, each also the start of the sigma search")
    radii: Radii = Field(description="radius columns of the tables, increasing")
    uniform: UniformSettings = Field(default_factory=UniformSettings.checked, description="what differs for methods with uniform noise")
    images: dict[Literal["validation", "test"], Count] = Field(
        description="how many images of a split are certified, evenly spaced; without validation, every second test image chooses sigma and K"
    )
    kind: DatasetKind = Field("", description="what the dataset is, by name; default: its own name")
    source: str | None = Field(None, min_length=1, description="folder with the dataset's own files, used instead of the network")
    hold_out: int | None = Field(
        None, ge=0, le=COUNT_MAX, description=f"training images held out for validation; default: {HOLD_OUT}. 0: a run on all of them"
    )
    path: str | None = Field(
        None, min_length=1, description="imagefolder: folder with train/, test/ and maybe validation/, each with a sub-folder per class"
    )
    classes: list[str] | None = Field(None, min_length=2, description="imagefolder: names of the sub-folders; their order gives the labels")
    shape: list[Count] | None = Field(None, min_length=3, max_length=3, description="imagefolder: [C, H, W] that images are scaled and cropped to")

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        of_folders = {"path": self.path, "classes": self.classes, "shape": self.shape}
        for name, value in of_folders.items():
            if (value is None) == (self.kind == "imagefolder"):
                raise ValueError(f"{name}: {'is needed with' if value is None else 'is only for'} kind: imagefolder, and this is {self.kind}")
        if self.classes is not None and self.shape is not None:
            check_classes(self.classes)
            check_shape(self.shape)
        if self.kind == "imagefolder" and self.source is not None:
            raise ValueError("source: is not for kind: imagefolder, whose folder is path")
        if source_of(self.kind).own_validation and self.hold_out is not None:
            raise ValueError(f"hold_out: is not for {self.kind}, which has a validation split of its own")
        sizes = source_of(self.kind).sizes
        for split, count in self.images.items():
            if count > sizes.get(split, count):
                raise ValueError(f"images.{split}: {count} is above the {sizes[split]} {split} images of {self.kind}")
        if self.hold_out is not None and self.hold_out >= sizes.get("train", self.hold_out + 1):
            raise ValueError(f"hold_out: {self.hold_out} must be below the {sizes['train']} training images of {self.kind}")
        held = self.fetched().get("hold_out")
        if isinstance(held, int) and self.images.get("validation", 0) > held:
            raise ValueError(
                f"images.validation: {self.images['validation']} is above hold_out = {held}{'; leave validation away' if not held else ''}"
            )
        return self

    def fetch_flags(self) -> list[str]:
        """What `ddrs fetch` is told beside the dataset's name."""
        words = ["--kind", self.kind]
        words += ["--source", self.path or self.source or ""] if self.path or self.source else []
        words += ["--validation", str(self.hold_out)] if self.hold_out is not None else []
        words += [word for name in self.classes or [] for word in ("--classes", name)]
        words += [word for split, count in self.images.items() for word in ("--images", f"{split}={count}")]
        return [*words, "--shape", ",".join(map(str, self.shape))] if self.shape else words

    def fetched(self) -> dict[str, object]:
        """What a manifest of the dataset says, as far as the config decides it."""
        facts: dict[str, object] = {"kind": self.kind}
        if source_of(self.kind).own_validation:
            return facts
        held = HOLD_OUT if self.hold_out is None else self.hold_out
        if self.path is None:
            return {**facts, "hold_out": held}
        facts |= {"path": str(Path(self.path)), "class_names": self.classes, "shape": self.shape}
        # without a key the folder decides, which may have validation/: so what was asked for is compared beside what was held out
        return {**facts, "asked_hold_out": held} if self.hold_out is None else {**facts, "hold_out": held, "asked_hold_out": held}

    @property
    def chooses_on(self) -> Chooser:
        """Which images choose sigma and K of selected tables: those of the validation split, or every second test image."""
        return "validation" if "validation" in self.images else ALTERNATE


def _with_architecture(given: Any) -> Any:
    """`model` is another name of the key `architecture`, of a dataset and of its `uniform`."""
    if not isinstance(given, Mapping):
        return given
    if "model" in given and "architecture" in given:
        raise ValueError("model: is another name of architecture, which is there too; give one of them")
    return {{"model": "architecture"}.get(key, key): _with_architecture(value) if key == "uniform" else value for key, value in given.items()}


def with_kinds(datasets: Any) -> Any:
    """Each dataset with its kind, which is its own name unless it says another."""
    if not isinstance(datasets, Mapping):
        return datasets
    named = {}
    for name, given in datasets.items():
        if isinstance(given, Mapping) and "kind" not in given:
            if name not in SOURCES:
                raise ValueError(
                    f"unknown dataset {name!r}{nearest(str(name), SOURCES)}; known are {', '.join(SOURCES)}; one of another name needs its kind"
                )
            given = {**given, "kind": name}
        named[name] = _with_architecture(given)
    return named

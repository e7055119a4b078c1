"""What config.yaml's `checkpoints` says: models of others that stand in for training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from ddrs.checkpoint_formats import FORMATS, Kind, preprocessing_of, published
from ddrs.errors import DdrsError
from ddrs.sections import Section, known_name, two_decimals
from ddrs.training.losses import METHODS

if TYPE_CHECKING:
    from ddrs.config import Config


def _by_sigma(value: Any) -> Any:
    """A path, or a mapping from sigma (any spelling of the number) to one."""
    if isinstance(value, Mapping):
        try:
            return {f"{two_decimals(float(sigma)):.2f}": path for sigma, path in value.items()}
        except (TypeError, ValueError):
            raise ValueError("must be a path, or a mapping from sigma to a path") from None
    return value


class CheckpointSettings(Section):
    """The published models of a method on a dataset, one per sigma."""

    format: Annotated[str, known_name("format", FORMATS)] = Field(description="whose files they are")
    file: Annotated[str | dict[str, str], BeforeValidator(_by_sigma)] = Field(
        description="path, in which {sigma} stands for the sigma with two decimals; or a mapping from sigma to a path"
    )
    preprocessing: Kind | None = Field(None, description="what the models do to an image first, where files of the format do not say it")

    def path(self, sigma: str) -> str:
        """The file of one sigma (two decimals)."""
        given = self.file.get(sigma, "") if isinstance(self.file, dict) else self.file
        return given.replace("{sigma}", sigma)


def check_checkpoints(settings: "Config") -> None:
    """ValueError unless each published model is one that its format has, has a file for each sigma, and is used for what it allows."""
    for name, methods in settings.checkpoints.items():
        if "validation" in settings.datasets[name].images:
            raise ValueError(
                f"checkpoints.{name}: its models saw all training images, so none are left to choose on: "
                f"datasets.{name}.images must not have validation; selected tables then choose on every second test image"
            )
        for method, own in methods.items():
            place = f"checkpoints.{name}.{method}"
            try:
                preprocessing_of(own.format, settings.datasets[name].kind, own.preprocessing)
            except DdrsError as error:
                raise ValueError(f"{place}: {error}") from None
            if METHODS.module(method).NOISE != "gaussian":
                raise ValueError(f"{place}: models of format {own.format} were trained with gaussian noise, {method} is of another")
            paths = {sigma: own.path(sigma) for sigma in settings.sigma_texts(name, method)}
            missing = [sigma for sigma, path in paths.items() if not path]
            if missing:
                raise ValueError(f"{place}.file: has no path for sigma {missing[0]}")
            if len(set(paths.values())) < len(paths):
                raise ValueError(f"{place}.file: must have {{sigma}} in it, or be a mapping, as sigmas {', '.join(paths)} are different models")
            odd = [path for path in paths.values() if "{" in path or "}" in path]
            if odd:
                raise ValueError(f"{place}.file: {odd[0]!r} has braces; only {{sigma}} is filled in")
            tuned = settings.finetune.get(name, {}).get(method)
            if tuned is not None and tuned.start == "branch":
                raise ValueError(
                    f"finetune.{name}.{method}: start: branch needs a run to branch from; the models of {place} are finished: say start: trained"
                )
        _check_architecture(settings, name)


def _check_architecture(settings: "Config", name: str) -> None:
    """ValueError if all models that a dataset's `architecture` is of are published ones, and of another. Beside trained ones it is of those."""
    own, methods = settings.datasets[name], settings.checkpoints[name]
    trained = [method for method in settings.train.get(name, {}) if method not in methods]
    if any(own.uniform.architecture is None or METHODS.module(method).NOISE == "gaussian" for method in trained):
        return
    known = sorted({published(one.format, own.kind).architecture for one in methods.values()})
    if known and own.architecture not in known:
        raise ValueError(f"datasets.{name}.architecture: {own.architecture}, but the models of checkpoints.{name} are of {' and '.join(known)}")

"""What config.yaml's `checkpoints` says: models of others that stand in for training."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ddrs.models.formats import FORMATS, Preprocessing
from ddrs.sections import Section, known_name, two_decimals


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
    preprocessing: Preprocessing | None = Field(None, description="what the models do to an image first, where files of the format do not say it")

    def path(self, sigma: str) -> str:
        """The file of one sigma (two decimals)."""
        given = self.file.get(sigma, "") if isinstance(self.file, dict) else self.file
        return given.replace("{sigma}", sigma)

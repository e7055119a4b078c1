"""What the settings of all losses have in common."""

from typing import Self

from pydantic import BaseModel, ConfigDict


class LossSettings(BaseModel):
    """The settings of a method's loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def at_epoch(self, epoch: int) -> Self:
        """What holds in an epoch of the run, counted from 0: the same in each, unless a loss says otherwise."""
        return self

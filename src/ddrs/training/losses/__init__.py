"""Training losses. A method is one file here: `NOISE`, `Settings`, `noise_samples` and `loss`; it imports torch in functions only."""

from typing import Self

from pydantic import BaseModel, ConfigDict

from ddrs.registry import Folder

METHODS = Folder("method", __name__)


class LossSettings(BaseModel):
    """The settings of a method's loss, which config.yaml gives as `loss`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def at_epoch(self, epoch: int) -> Self:
        """What holds in an epoch of the run, counted from 0: the same in each, unless a loss says otherwise."""
        return self

    def image_gradients(self) -> int:
        """How many passes back to the image a step takes for each of its images: none, unless a loss attacks."""
        return 0

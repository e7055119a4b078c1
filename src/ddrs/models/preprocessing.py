"""What a published model does to an image in front of its network, as a recorded fact of the checkpoint.

It stands inside the model, so that noise is added, and radii are certified, on the [0, 1] pixel scale.
"""

import torch
from torch import nn

from ddrs.errors import DdrsError

NUMBERS = {"normalize": ("mean", "sd"), "center": ("mean",)}  # what each kind records


class Preprocessed(nn.Module):
    """A network behind (x - mean) / sd, or behind x - mean where sd is None, per channel.

    As NormalizeLayer and InputCenterLayer of locuslab/smoothing and smoothing-adversarial (code/datasets.py), in the order of their operations.
    """

    def __init__(self, net: nn.Module, mean: list[float], sd: list[float] | None):
        super().__init__()
        self.net = net
        self.mean: torch.Tensor
        self.sd: torch.Tensor | None
        # not persistent: the checkpoint's facts hold the numbers, its tensors the weights
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("sd", None if sd is None else torch.tensor(sd).view(-1, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - self.mean
        return self.net(centred if self.sd is None else centred / self.sd)


def with_preprocessing(net: nn.Module, recorded: dict | None, channels: int) -> nn.Module:
    """The network behind the preprocessing that a checkpoint recorded; the network itself for {"kind": "none"}, or if nothing was recorded.

    recorded: {"kind": "normalize", "mean": [...], "sd": [...]} or {"kind": "center", "mean": [...]}, a number per channel. Errors: DdrsError
    for anything else, as another preprocessing would be another model.
    """
    if recorded is None or recorded == {"kind": "none"}:
        return net
    fits = isinstance(recorded, dict) and any(
        recorded.get("kind") == kind and set(recorded) == {"kind", *names} and all(_per_channel(recorded[name], channels) for name in names)
        for kind, names in NUMBERS.items()
    )
    if not fits:
        raise DdrsError(f"preprocessing {recorded}: must be none, center with a mean or normalize with mean and sd, for each of {channels} channels")
    return Preprocessed(net, recorded["mean"], recorded.get("sd"))


def _per_channel(value: object, channels: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == channels and all(isinstance(one, int | float) for one in value)

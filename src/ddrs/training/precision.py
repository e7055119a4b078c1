"""The precision of a training run's forward passes: of the loss, of an attack, and of the ascent step on sigma."""

import torch
from torch import nn

from ddrs.errors import DdrsError
from ddrs.models.running import device_of

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
IMAGE_GRADIENT_SCALE = 128.0  # of float16 gradients on their way back to the images, which no GradScaler sees


def check_precision(precision: str, device: torch.device) -> None:
    """DdrsError for a precision that the device has not."""
    if precision == "tf32" and device.type != "cuda":
        raise DdrsError("precision 'tf32': needs a CUDA device")


def in_precision(model: nn.Module, precision: str) -> nn.Module:
    """The model itself for float32 and tf32, else one that runs it in bfloat16 or float16: its weights, statistics and modes are the model's."""
    return Mixed(model, HALF[precision]) if precision in HALF else model


class Mixed(nn.Module):
    """A network under autocast that takes float32 images and gives float32 scores, so that losses and radii are computed in float32.

    In float16 a small gradient vanishes. GradScaler prevents that for the weights' gradients; on the way back to the images, in eval mode,
    the gradient is multiplied behind the network and divided again before it.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.network, self.dtype, self.device_type = network, dtype, device_of(network).type
        self.training = network.training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled = self.dtype == torch.float16 and not self.training and x.requires_grad and torch.is_grad_enabled()
        if scaled:
            x = x.view_as(x)
            x.register_hook(lambda gradient: gradient / IMAGE_GRADIENT_SCALE)
        with torch.autocast(self.device_type, self.dtype):
            scores = self.network(x)
        scores = scores.float()
        if scaled:
            scores.register_hook(lambda gradient: gradient * IMAGE_GRADIENT_SCALE)
        return scores

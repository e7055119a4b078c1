"""Architectures by name: functions of the image shape (C, H, W) and the number of classes.

Each maps images (batch, C, H, W) in [0, 1] to scores (batch, classes). torch is imported on use, so that a config can be checked
against the names without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ddrs.errors import DdrsError
from ddrs.models import own
from ddrs.models.resnets import resnet18_ddrs, resnet110

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int, int]


def small_cnn(shape: Shape, classes: int) -> nn.Module:
    """Three convolutions with BatchNorm (16 and 32 channels of 5x5 at stride 2, 32 of 3x3), two linear layers: 1.4 MMAC on 28x28."""
    from torch import nn

    def block(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    channels, height, width = shape
    features = [*block(channels, 16, 5, 2), *block(16, 32, 5, 2), *block(32, 32, 3, 1)]
    pixels = -(-height // 4) * -(-width // 4)
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(32 * pixels, 128), nn.ReLU(inplace=True), nn.Linear(128, classes))


def resnet18(shape: Shape, classes: int) -> nn.Module:
    """ResNet-18 in its CIFAR form: a 3x3 stem of stride 1 and no max-pooling (0.56 GMAC on 32x32)."""
    from torch import nn

    from ddrs.vision import torchvision_models

    model = torchvision_models().resnet18(num_classes=classes)
    model.conv1 = nn.Conv2d(shape[0], 64, 3, 1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def resnet50(shape: Shape, classes: int) -> nn.Module:
    """ResNet-50 in its ImageNet form, as in torchvision: a 7x7 stem of stride 2 and max-pooling (4.1 GMAC on 224x224)."""
    from torch import nn

    from ddrs.vision import torchvision_models

    model = torchvision_models().resnet50(num_classes=classes)
    if shape[0] != 3:
        model.conv1 = nn.Conv2d(shape[0], 64, 7, 2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    return model


def wide_resnet40_2(shape: Shape, classes: int) -> nn.Module:
    """Wide ResNet-40-2 in its CIFAR form (Zagoruyko and Komodakis 2016): three groups of six blocks, no dropout (0.33 GMAC on 32x32).

    A block normalises before each of its two 3x3 convolutions; where it changes the shape, its 1x1 shortcut starts behind the first
    normalisation.
    """
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.before = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
            self.residual = nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
                nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            )
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ready = self.before(x)
            return self.residual(ready) + (x if self.shortcut is None else self.shortcut(ready))

    layers: list[nn.Module] = [nn.Conv2d(shape[0], 16, 3, padding=1, bias=False)]
    width = 16
    for outputs, stride in ((32, 1), (64, 2), (128, 2)):
        layers += [Block(width, outputs, stride), *(Block(outputs, outputs, 1) for _ in range(5))]
        width = outputs
    model = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    return model


ARCHITECTURES: dict[str, Callable[[Shape, int], nn.Module]] = {
    "small_cnn": small_cnn,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "wide_resnet40_2": wide_resnet40_2,
    "resnet110": resnet110,
    "resnet18_ddrs": resnet18_ddrs,
}


def build_model(architecture: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A newly initialised model that maps images (batch, *shape) in [0,1] to scores (batch, classes)."""
    if own.is_own(architecture):
        return own.build(architecture, shape, classes)
    if architecture not in ARCHITECTURES:
        raise DdrsError(f"architecture {architecture!r}: unknown; known are {', '.join(ARCHITECTURES)}, or package.module:factory of your own")
    return ARCHITECTURES[architecture](shape, classes)

"""Architectures by name: functions of the image shape (C, H, W) and the number of classes.

Each maps images (batch, C, H, W) in [0, 1] to scores (batch, classes). torch is imported on use, so that a config can be checked
against the names without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

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


ARCHITECTURES: dict[str, Callable[[Shape, int], nn.Module]] = {"small_cnn": small_cnn, "resnet18": resnet18}

"""Residual networks in the forms in which others publish theirs: the names of weights are those of their files."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def resnet110(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """ResNet-110 in its CIFAR form (He et al. 2016): three groups of 18 basic blocks with 16, 32 and 64 channels (0.25 GMAC on 32x32).

    As in locuslab/smoothing (code/archs/cifar_resnet.py), smoothing-adversarial (the same file) and macer (model.py): where a block changes
    the shape, its shortcut is a 1x1 convolution with BatchNorm. Their AvgPool2d(8) is the mean over the whole map of a 32x32 image.
    """
    from torch import nn

    from ddrs.vision import torchvision_models

    block = torchvision_models().resnet.BasicBlock

    def group(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)) if inputs != outputs else None
        return nn.Sequential(block(inputs, outputs, stride, shortcut), *(block(outputs, outputs) for _ in range(17)))

    parts: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(shape[0], 16, 3, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(16),
        "relu": nn.ReLU(inplace=True),
        "layer1": group(16, 16, 1),
        "layer2": group(16, 32, 2),
        "layer3": group(32, 64, 2),
        "avgpool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(64, classes),
    }
    model = nn.Sequential(OrderedDict(parts))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def resnet18_ddrs(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """ResNet-18 as the paper's own code has it for CIFAR-10 (CIFAR10/models/resnet.py of Alfarra et al. 2022; 0.04 GMAC on 32x32).

    The ImageNet form, with a 7x7 stem of stride 2 and max-pooling, but no BatchNorm behind the first convolution. Their softmax at the end
    is left out: this maps images to the scores in front of it, of which it is the softmax.
    """
    from torch import nn

    from ddrs.vision import torchvision_models

    model = torchvision_models().resnet18(num_classes=classes)
    model.bn1 = nn.Identity()
    if shape[0] != 3:
        model.conv1 = nn.Conv2d(shape[0], 64, 7, 2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    return model

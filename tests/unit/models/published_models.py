"""Models as other projects publish them: their layers, the names of their weights, and how they save them. See ddrs.models.formats."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ddrs.vision import torchvision_models

CIFAR = ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


class Normalize(nn.Module):
    """NormalizeLayer, or InputCenterLayer if there are no sds: the numbers are plain attributes, in no state dict."""

    def __init__(self, means: list[float], sds: list[float] | None = None):
        super().__init__()
        self.means, self.sds = torch.tensor(means), None if sds is None else torch.tensor(sds)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = x.shape
        means, sds = (None if v is None else v.repeat((batch, height, width, 1)).permute(0, 3, 1, 2) for v in (self.means, self.sds))
        return x - means if sds is None else (x - means) / sds


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = None
        if inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


def blocks(inputs: int, outputs: int, stride: int, count: int) -> nn.Sequential:
    return nn.Sequential(Block(inputs, outputs, stride), *(Block(outputs, outputs, 1) for _ in range(count - 1)))


class CifarResNet(nn.Module):
    """Depth 6n + 2, with 8x8 average pooling: cifar_resnet110 and cifar_resnet20."""

    def __init__(self, depth: int = 110, classes: int = 10):
        super().__init__()
        n = (depth - 2) // 6
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = blocks(16, 16, 1, n), blocks(16, 32, 2, n), blocks(32, 64, 2, n)
        self.fc = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(F.avg_pool2d(x, 8).flatten(1))


class PapersResNet18(nn.Module):
    """The DDRS authors' CIFAR-10 model: normalises, has no BatchNorm behind its first convolution, and ends in a softmax."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.layer1, self.layer2 = blocks(64, 64, 1, 2), blocks(64, 128, 2, 2)
        self.layer3, self.layer4 = blocks(128, 256, 2, 2), blocks(256, 512, 2, 2)
        self.fc = nn.Linear(512, classes)
        self.mean, self.std = (torch.tensor(values).view(1, 3, 1, 1) for values in CIFAR)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1((x - self.mean) / self.std)), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1)).softmax(1)


class PapersWrapper(nn.Module):
    """The DDRS authors' ImageNet model: DataParallel's network behind the mean (and sd), in front of a softmax."""

    def __init__(self, center_only: bool):
        super().__init__()
        self.model = nn.DataParallel(torchvision_models().resnet50())
        self.mean, self.std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET[0], [1.0] * 3 if center_only else IMAGENET[1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model((x - self.mean) / self.std).softmax(1)


def published_model(name: str) -> nn.Module:
    """A model of that name with BatchNorm statistics that are not the initial ones, in eval mode."""
    torch.manual_seed(7)
    makers = {
        "locuslab cifar10": lambda: nn.Sequential(Normalize(*CIFAR), CifarResNet()),
        "locuslab imagenet": lambda: nn.Sequential(Normalize(*IMAGENET), nn.DataParallel(torchvision_models().resnet50())),
        "smoothing-adversarial cifar10": lambda: nn.Sequential(Normalize(CIFAR[0]), CifarResNet()),
        "macer cifar10": CifarResNet,
        "ddrs cifar10": PapersResNet18,
        "ddrs imagenet": lambda: PapersWrapper(center_only=True),
    }
    model = makers[name]()
    side = 64 if "imagenet" in name else 32
    momenta = {norm: norm.momentum for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)}
    for norm in momenta:
        norm.momentum = 1.0  # statistics of the one batch, so that scores stay in the range of a trained model
    with torch.no_grad():
        model.train()(torch.rand(8, 3, side, side))
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    return model.eval()


def saved_as(name: str, model: nn.Module, momenta: bool = True) -> dict[str, Any]:
    """What the project saves of a model; only small ones with the momenta of an optimiser, as many bytes as the weights."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    if momenta and "imagenet" not in name:
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    weights = model.state_dict()
    if name.startswith("macer"):
        return {"net": weights, "epoch": 440}
    if name.startswith("ddrs"):
        return {"epoch": 200, "state_dict": weights, "optimizer_param": optimizer.state_dict()}
    return {"epoch": 90, "arch": "resnet50" if "imagenet" in name else "cifar_resnet110", "state_dict": weights, "optimizer": optimizer.state_dict()}


def write_published(path: Path, name: str) -> nn.Module:
    """Write a published checkpoint; returns the model that it is of."""
    model = published_model(name)
    torch.save(saved_as(name, model), path)
    return model

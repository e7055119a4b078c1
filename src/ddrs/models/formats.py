"""The formats in which others publish their models: what their files hold, and what they leave unsaid. No torch is needed.

Each fact is from the repository that wrote the files:
locuslab             github.com/locuslab/smoothing: code/train.py saves {epoch, arch, state_dict, optimizer} of Sequential(NormalizeLayer, net)
                     (code/architectures.py), where net is DataParallel on ImageNet. The layer's numbers are no part of the state dict: they are
                     those of the dataset in code/datasets.py.
smoothing-adversarial github.com/Hadisalman/smoothing-adversarial: the same (code/train_pgd.py, architectures.py, datasets.py), but the first layer
                     is NormalizeLayer or InputCenterLayer, and neither holds a weight: the files do not tell. Its README does, by folder: normalize
                     for imagenet32/, cifar10/finetune_cifar_from_imagenetPGD2steps/ and cifar10/self_training/; center for imagenet/ and the rest
                     of cifar10/. A file of theirs reads as one of locuslab too: nothing but the user's word tells them apart.
macer                github.com/RuntianZ/macer: main.py saves {net, epoch} of the bare ResNet-110 (model.py); images are ToTensor's, no more.
ddrs                 github.com/MotasemAlfarra/Data_Dependent_Randomized_Smoothing: {epoch, state_dict, optimizer_param}. CIFAR10/models/resnet.py
                     normalises in its forward pass; ImageNet/utils.py wraps DataParallel(resnet50) as `model` behind the same, or, by the flag
                     --center-only of ImageNet/train_*.py, behind the mean alone. Both end in a softmax.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ddrs.errors import DdrsError

Preprocessing = Literal["none", "center", "normalize"]


@dataclass(frozen=True)
class ImageFormat:
    """What the models of a dataset are made for. shape: (C, H, W). mean, sd: per channel, the same numbers in all of these repositories."""

    shape: tuple[int, int, int]
    classes: int
    mean: list[float]
    sd: list[float]


IMAGE_FORMATS = {
    "cifar10": ImageFormat((3, 32, 32), 10, [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
    "imagenet": ImageFormat((3, 224, 224), 1000, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}


@dataclass(frozen=True)
class Published:
    """A format's models of one dataset."""

    architecture: str  # ours
    preprocessing: tuple[Preprocessing, ...]  # several: files do not say which
    prefix: str = ""  # of the network's weights within the published module, without DataParallel's
    arch: str | None = None  # what the file itself must say, where it says anything


@dataclass(frozen=True)
class Format:
    """How a project's files are laid out."""

    weights: str  # the key of the state dict
    outputs: Literal["scores", "probabilities"]  # of the published module
    models: Mapping[str, Published]  # by dataset


FORMATS = {
    "locuslab": Format(
        "state_dict",
        "scores",
        {
            "cifar10": Published("resnet110", ("normalize",), "1.", "cifar_resnet110"),
            "imagenet": Published("resnet50", ("normalize",), "1.", "resnet50"),
        },
    ),
    "smoothing-adversarial": Format(
        "state_dict",
        "scores",
        {
            "cifar10": Published("resnet110", ("normalize", "center"), "1.", "cifar_resnet110"),
            "imagenet": Published("resnet50", ("normalize", "center"), "1.", "resnet50"),
        },
    ),
    "macer": Format("net", "scores", {"cifar10": Published("resnet110", ("none",))}),
    "ddrs": Format(
        "state_dict",
        "probabilities",
        {
            "cifar10": Published("resnet18_ddrs", ("normalize",)),
            "imagenet": Published("resnet50", ("normalize", "center"), "model."),
        },
    ),
}


def published(name: str, dataset: str) -> Published:
    """A format's models of a dataset; DdrsError if there are none."""
    if name not in FORMATS:
        raise DdrsError(f"format {name!r}: unknown; known are {', '.join(FORMATS)}")
    models = FORMATS[name].models
    if dataset not in models:
        raise DdrsError(f"format {name}: its models are of {' and '.join(models)}, not of {dataset}")
    return models[dataset]


def preprocessing_of(name: str, dataset: str, stated: str | None) -> dict:
    """What a checkpoint records as its preprocessing. `stated` by the user: needed where files of the format leave it open.

    Errors: DdrsError where it is needed and missing, or not one that the format's models have.
    """
    known = published(name, dataset).preprocessing
    if stated is None and len(known) > 1:
        where = (
            "the README of smoothing-adversarial lists it by folder" if name == "smoothing-adversarial" else "center if trained with --center-only"
        )
        raise DdrsError(f"preprocessing: files of format {name} for {dataset} do not say it; state {' or '.join(known)} ({where})")
    if stated is not None and stated not in known:
        raise DdrsError(f"preprocessing {stated}: models of format {name} for {dataset} have {' or '.join(known)}")
    kind = next(iter(known)) if stated is None else stated
    images = IMAGE_FORMATS[dataset]
    return {"kind": kind} | ({} if kind == "none" else {"mean": images.mean}) | ({"sd": images.sd} if kind == "normalize" else {})

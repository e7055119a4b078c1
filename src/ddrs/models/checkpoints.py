"""Building models, and checkpoints as safetensors that say what they hold."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import nn

from ddrs.data.splits import Split, load_split, split_digests
from ddrs.errors import DdrsError
from ddrs.files import require, write_bytes
from ddrs.models import own
from ddrs.models.architectures import build_model
from ddrs.models.preprocessing import with_preprocessing

CHECKPOINT_FACTS = ("architecture", "shape", "classes", "method", "regime", "sigma", "noise")  # what every checkpoint records


def save_model(path: Path, model: nn.Module, facts: dict) -> None:
    """Write a checkpoint. `facts` has at least FACTS, and `preprocessing` where the model is behind one; the bytes repeat.

    Tied weights are stored once. Errors: DdrsError for a model whose state is not all tensors.
    """
    write_bytes(path, _packed(model, facts))


def check_storable(model: nn.Module, facts: dict) -> None:
    """DdrsError unless `save_model` can store the model, and its state be loaded from that: to be known before it is trained for hours."""
    stored = load(_packed(model, facts))
    try:
        _fill(model, stored)
    except Exception as error:  # whatever the user's own code raises when its state is set
        raise _unstorable(facts, f"its model cannot load what it saves ({' '.join(str(error).split())[:200]})") from None


def _packed(model: nn.Module, facts: dict) -> bytes:
    """A checkpoint's content. Of tensors that are one in the model it holds the first alone; of those that overlap, each."""
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            advice = "a checkpoint holds tensors alone, so register a buffer, or leave it out of the state"
            raise _unstorable(facts, f"its model's state has {name}, a {type(value).__name__}; {advice}")
    firsts = set({_place(value): name for name, value in reversed(state.items())}.values())
    try:
        tensors = {name: state[name].detach().cpu().clone(memory_format=torch.contiguous_format) for name in state if name in firsts}
        # safetensors orders several metadata keys at random: one key that holds them all keeps the bytes equal between runs
        return save(tensors, metadata={"ddrs": json.dumps(facts, sort_keys=True)})
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:  # sparse, quantized, without values, of a dtype of its own
        raise _unstorable(facts, f"its model's state cannot be stored ({' '.join(str(error).split())[:200]})") from None


def _unstorable(facts: dict, why: str) -> DdrsError:
    return DdrsError(f"architecture {facts['architecture']!r}: {why}")


def _place(value: torch.Tensor) -> tuple:
    """What two tensors have in common only if they are one: where they lie, and how. Sparse and empty ones lie nowhere."""
    where = value.data_ptr() if value.layout == torch.strided else 0
    return (where, value.device, value.dtype, value.shape, value.stride()) if where else (id(value),)


def _fill(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Load a checkpoint's tensors, each also under the names that the model ties to its own. RuntimeError if they do not fit."""
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    stored = {_place(state[name]): tensor for name, tensor in tensors.items() if name in state}
    tied = {name: stored[_place(value)] for name, value in state.items() if _place(value) in stored}
    model.load_state_dict({**tied, **tensors})


def read_facts(path: Path) -> dict:
    """What `save_model` recorded, without reading the weights."""
    return _open(path, lambda file: _facts(path, file.metadata()))


def load_model(path: Path | str, *, architecture: str | None = None, classes: int | None = None) -> nn.Module:
    """The model of a checkpoint, behind the preprocessing that it recorded, in eval mode on the CPU.

    Guarantee:
        No code is run that the file alone chooses: a factory of the user's own is called only where `architecture` names it.

    Args:
        path: a checkpoint, from `ddrs train`, `ddrs finetune` or `ddrs import-checkpoint`.
        architecture: the network that it must hold; must be given for a model of the user's own, as package.module:factory.
        classes: the number of classes that it must have.

    Returns:
        A module that maps (B, C, H, W) float32 in [0, 1] to scores (B, classes).

    Raises:
        DdrsError: if the file is missing, truncated or not ours, holds another architecture or number of classes than asked, or a factory that
            was not asked.
    """
    path = Path(path)
    facts = read_facts(path)
    check_named(path, facts, architecture)
    if classes is not None and facts["classes"] != classes:
        raise DdrsError(f"{path}: holds classes {facts['classes']}, not {classes}")
    channels, height, width = facts["shape"]
    net = build_model(facts["architecture"], (channels, height, width), facts["classes"])
    try:
        model = with_preprocessing(net, facts.get("preprocessing"), channels)
    except DdrsError as error:
        raise DdrsError(f"{path}: {error}") from None
    tensors = _open(path, lambda file: {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  (not a dict)
    try:
        _fill(model, tensors)
    except RuntimeError as error:
        raise DdrsError(f"{path}: weights do not fit {facts['architecture']}: {str(error).splitlines()[-1].strip()}") from None
    return model.eval()


def check_named(path: Path, facts: dict, architecture: str | None) -> None:
    """DdrsError if a checkpoint's facts name another architecture than the caller, or a factory where the caller names none."""
    held = facts["architecture"]
    if architecture is None and own.is_own(held):
        raise DdrsError(
            f"{path}: its model is the code {held!r}, which a file alone may not have run; if you trust it, name it with --architecture"
            " (in Python: load_model's architecture)"
        )
    if architecture not in (None, held):
        raise DdrsError(f"{path}: holds architecture {held!r}, not {architecture!r}")


def _open(path: Path, read: Callable):
    require(path, "checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            return read(file)
    except (SafetensorError, OSError) as error:
        raise DdrsError(f"{path}: not a readable safetensors checkpoint ({error})") from None


def _facts(path: Path, recorded: dict[str, str] | None) -> dict:
    if not recorded or "ddrs" not in recorded:
        raise DdrsError(f"{path}: a safetensors file without ddrs metadata; its architecture is unknown")
    try:
        facts = json.loads(recorded["ddrs"])
        missing = [name for name in CHECKPOINT_FACTS if name not in facts]
    except (ValueError, TypeError):
        facts, missing = {}, ["readable facts"]
    if missing:
        raise DdrsError(f"{path}: its ddrs metadata has no {', '.join(missing)}")
    name, shape, classes = facts["architecture"], facts["shape"], facts["classes"]
    if not isinstance(name, str):
        raise DdrsError(f"{path}: its architecture is {name!r}, not a name")
    # also as they choose what is called with what, where the architecture is of somebody's own
    if not (isinstance(shape, list) and len(shape) == 3 and all(type(size) is int and size > 0 for size in (*shape, classes))):
        raise DdrsError(f"{path}: shape {shape} (three) and classes {classes} must be positive integers")
    return facts


def check_fits(path: Path, facts: dict, split: Split) -> None:
    """DdrsError unless a checkpoint's facts fit a dataset's images and classes."""
    for what, has, wants in (("classes", facts["classes"], split.classes), ("image shape", tuple(facts["shape"]), split.shape)):
        if has != wants:
            raise DdrsError(f"{path}: a model for {what} {has}, but {split.dataset} has {wants}")


def load_with_data(model: Path, data: Path, split: str, device: torch.device, architecture: str | None = None) -> tuple[nn.Module, dict, Split]:
    """A checkpoint's model on a device, its facts, and a split of the dataset. architecture: as of `load_model`.

    DdrsError if they do not fit each other, or for validation images which the model may have seen, as it was trained on other images than
    those that they were held out of.
    """
    part = load_split(data, split)
    facts = read_facts(model)
    check_named(model, facts, architecture)
    check_fits(model, facts, part)
    if split == "validation" and facts.get("data", "") not in ("", split_digests(data)["train"]):
        raise DdrsError(f"{model}: was trained on other images than the train split of {data}, so its validation images may be among them")
    return load_model(model, architecture=architecture).to(device), facts, part

"""Building models, and checkpoints as safetensors that say what they hold."""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import nn

from ddrs import own_model
from ddrs.architectures import ARCHITECTURES
from ddrs.data import Split, load_split, split_digests
from ddrs.errors import DdrsError
from ddrs.files import require, write_bytes
from ddrs.preprocessing import with_preprocessing

FACTS = ("architecture", "shape", "classes", "method", "regime", "sigma", "noise")  # what every checkpoint records
FLOATS = (np.float16, np.float32, np.float64)  # of NumPy images
UNDECIDED = "the model returned NaN or infinite scores; nothing can be certified with it"


def build_model(architecture: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A newly initialised model that maps images (batch, *shape) in [0,1] to scores (batch, classes)."""
    if own_model.is_own(architecture):
        return own_model.build(architecture, shape, classes)
    if architecture not in ARCHITECTURES:
        raise DdrsError(f"architecture {architecture!r}: unknown; known are {', '.join(ARCHITECTURES)}, or package.module:factory of your own")
    return ARCHITECTURES[architecture](shape, classes)


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
    if architecture is None and own_model.is_own(held):
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
        missing = [name for name in FACTS if name not in facts]
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


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters lie, or its buffers if it has none (the CPU if it has neither). DdrsError for the meta device."""
    held = next((held for each in (model.parameters(), model.buffers()) for held in each), None)
    if held is not None and held.device.type == "meta":
        raise DdrsError("the model lies on the device meta, which holds no weights")
    return torch.device("cpu") if held is None else held.device


def resolve_device(name: str) -> torch.device:
    """The torch device of that name; DdrsError if this machine has none."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DdrsError(f"device {name!r}: unknown; use cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda") or name.startswith("cpu:"):
        raise DdrsError(f"device {name!r}: unknown; use cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DdrsError(f"device {name!r}: this machine has {torch.cuda.device_count()} usable CUDA devices")
    return device


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode, and afterwards back into the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def taking_float32(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The model itself, or a float32 copy of one with weights of another float type that fails on float32 images as it is.

    shape: of one image. The model is in eval mode.
    """
    if all(weight.dtype == torch.float32 for weight in model.parameters() if weight.is_floating_point()):
        return model
    try:
        model(torch.zeros(2, *shape, device=device_of(model)))
    except Exception:  # mostly that two types do not go together; what the copy raises too comes up when it runs
        return copy.deepcopy(model).float()
    return model


@contextmanager
def usual_torch() -> Iterator[None]:
    """torch's own modes as they are at its start, whatever the caller has set: no autocast, float32 and the CPU by default, no inference mode.

    Autocast and the reduced matmul precision would make the passes another function than the stated precision says, and only in the calling
    thread; the other modes change what tensors made inside are. A model's own modes, set inside its forward pass, stand.
    """
    dtype, matmul = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if matmul != "highest":
            stack.callback(torch.set_float32_matmul_precision, matmul)
            torch.set_float32_matmul_precision("highest")
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        yield


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """`evaluating`, and afterwards every buffer as it was, also of a model whose forward pass moves them."""
    with torch.inference_mode():
        before = [(module, name, held, held.clone()) for module in model.modules() for name, held in module.named_buffers(recurse=False)]
    try:
        with evaluating(model):
            yield
    finally:
        with torch.inference_mode():  # the one mode in which every tensor may be written
            for module, name, held, content in before:
                if getattr(module, name) is not held:
                    setattr(module, name, held)
                if held.layout != torch.strided or not torch.equal(held, content):  # sparse ones cannot be compared
                    held.copy_(content)


@contextmanager
def exact_kernels(device: torch.device, kind: str) -> Iterator[None]:
    """On a GPU: deterministic kernels, and no silent rounding of float32 to tf32 unless asked for."""
    if device.type != "cuda":
        yield
        return
    allowed = kind == "tf32"
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=allowed):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


class Scored(nn.Module):
    """A model, or a plain function, as one that maps images (batch, ...) to a tensor of scores (batch, classes), always of as many classes.

    Scores may come as the tensor or as the output's `.logits`. device: where a plain function's images go. Errors: a DdrsError of one line for
    every other output, and in place of an exception of the model's, which is its cause.
    """

    def __init__(self, model: object, device: torch.device | None = None):
        super().__init__()
        if not callable(model):
            raise DdrsError(f"model: a {type(model).__name__}; must be a torch.nn.Module or a function from images to scores")
        self.model, self.classes = model, 0
        if device is not None:
            self.register_buffer("place", torch.empty(0, device=device), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        try:
            output = self.model(images)
        except (DdrsError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a model may raise anything
            said = " ".join(str(error).split())[:300]
            hint = " (two axes are a batch of vectors; an image is (C, H, W))" if images.ndim == 2 else ""
            what = f"{tuple(images.shape)} of {images.dtype}"
            raise DdrsError(f"the model fails on a batch {what}{hint}: {type(error).__name__}: {said}") from error
        scores = _scores_in(output, len(images))
        self.classes = self.classes or scores.shape[1]
        if scores.shape[1] != self.classes:
            raise DdrsError(f"the model returned scores of {scores.shape[1]} classes after those of {self.classes}")
        return scores


def as_module(model: object, device: torch.device) -> nn.Module:
    """A module as it is; a plain function as a module on that device, the images'. DdrsError for what can not be called."""
    return model if isinstance(model, nn.Module) else Scored(model, device)


def _scores_in(output: object, batch: int) -> torch.Tensor:
    scores = getattr(output, "logits", output)
    if not isinstance(scores, torch.Tensor):
        raise DdrsError(f"the model returned a {type(scores).__name__}; a tensor (batch, classes) is needed, or an object with one as .logits")
    if scores.layout != torch.strided or scores.is_complex():
        raise DdrsError(f"the model returned {scores.dtype} scores, {scores.layout}; dense real ones are needed")
    if scores.ndim != 2 or scores.shape[0] != batch or scores.shape[1] < 2:
        raise DdrsError(f"the model returned shape {tuple(scores.shape)} for a batch of {batch}; (batch, classes) is needed")
    return scores if scores.is_floating_point() else scores.float()


def can_decide(scores: torch.Tensor) -> torch.Tensor:
    """Whether every row (at least one) has a finite maximum and no NaN, as a bool tensor (). -inf is allowed: masks make it."""
    return torch.isfinite(scores.amax(1)).all()


def checked_scores(scores: torch.Tensor, batch: int) -> torch.Tensor:
    """The model's output, or a DdrsError if it is not of shape (batch, classes) or can not decide."""
    scores = _scores_in(scores, batch)
    if not bool(can_decide(scores)):
        raise DdrsError(UNDECIDED)
    return scores


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


def as_batch(x: object) -> tuple[bool, torch.Tensor]:
    """Whether x is one image (C, H, W) or vector (d,), and x as a batch, outside of any gradient; float types stay as they are.

    x: a dense tensor or NumPy array of floats. DdrsError for anything else, and for a batch without images or images without values.
    """
    if isinstance(x, np.ndarray):
        native = x.dtype.newbyteorder("=")
        x = torch.from_numpy(np.array(x, dtype=native)) if native in FLOATS else x
    if not isinstance(x, torch.Tensor):
        kind = f"an array of {x.dtype}" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
        raise DdrsError(f"x: {kind}; must be a tensor or NumPy array of floats: one image (C, H, W) or vector (d,), or a batch of them")
    if x.layout != torch.strided or x.is_meta:
        raise DdrsError(f"x: a tensor of layout {x.layout} on {x.device}; must be dense, with values")
    if x.ndim not in (1, 2, 3, 4) or x.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise DdrsError(f"x: {x.dtype} of shape {tuple(x.shape)}: must be float, one image (C, H, W) or vector (d,), or a batch of them")
    x = x.detach().clone() if x.is_inference() else x.detach()  # an inference tensor takes no part in a gradient
    images = x.unsqueeze(0) if x.ndim in (1, 3) else x
    if not images.numel():
        raise DdrsError(f"x of shape {tuple(x.shape)}: holds no images" if not len(images) else f"x of shape {tuple(x.shape)}: images without values")
    return x.ndim in (1, 3), images

"""A model as it is run: in eval mode, by exact kernels, its scores checked, on one image or a batch, and left as it was."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn

from ddrs.errors import DdrsError

FLOATS = (np.float16, np.float32, np.float64)  # of NumPy images
UNDECIDED = "the model returned NaN or infinite scores; nothing can be certified with it"


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters lie, or its buffers if it has none (the CPU if it has neither). DdrsError for the meta device."""
    held = next((held for each in (model.parameters(), model.buffers()) for held in each), None)
    if held is not None and held.device.type == "meta":
        raise DdrsError("the model lies on the device meta, which holds no weights")
    return torch.device("cpu") if held is None else held.device


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

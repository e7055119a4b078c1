"""Running a model as fast as it goes at an unchanged meaning: BatchNorm folded, channels_last, one fixed batch shape, a stated precision."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

from ddrs.config import PRECISIONS
from ddrs.errors import DdrsError
from ddrs.models import device_of, evaluating

Scores = Callable[[torch.Tensor], torch.Tensor]  # images (batch, d), float32 in the order of `flat`, to scores (batch, classes), float32
SIZES = {"cpu": (64, 128, 256), "cuda": (512, 1024, 2048, 4096, 8192)}
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def flat(image: torch.Tensor) -> torch.Tensor:
    """The pixels of one image (C, H, W) in the order of channels_last memory, (H*W*C,); a vector as it is. Float32."""
    return (image.permute(1, 2, 0) if image.ndim == 3 else image).to(torch.float32).reshape(-1).contiguous()


@contextmanager
def running(model: nn.Module, shape: tuple[int, ...], precision: str) -> Iterator[Scores]:
    """The model as a function of a batch of flat images; run in eval mode and left as it was.

    shape: of one image. precision: a name of PRECISIONS; the certificate is for the function that runs here, so logs record it. BatchNorm is
    folded into the convolution before it where torch.fx can trace the model and the folded copy gives the same scores.
    Errors: DdrsError for a precision that is unknown or needs a GPU.
    """
    device = device_of(model)
    kind, _, compiled = precision.partition("-")
    if precision not in PRECISIONS:
        raise DdrsError(f"precision {precision!r}: unknown; known are {', '.join(PRECISIONS)}")
    if kind == "tf32" and device.type != "cuda":
        raise DdrsError("precision 'tf32': needs a CUDA device")
    with evaluating(model), _exact_kernels(device, kind):
        net, dtype = _folded(model, shape), DTYPES[kind]
        if len(shape) == 3 and net is not model:
            net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if dtype != torch.float32:
            net = (copy.deepcopy(net) if net is model else net).to(dtype)
        run = torch.compile(net) if compiled else net

        @torch.inference_mode()
        def scores(images: torch.Tensor) -> torch.Tensor:
            if len(shape) == 3:
                images = images.view(-1, shape[1], shape[2], shape[0]).permute(0, 3, 1, 2)
            found = run(images.to(dtype))
            return found if found.dtype == torch.float32 else found.float()

        yield scores


def best_batch_size(scores: Scores, values: int, device: torch.device) -> int:
    """The batch size of the most samples per second in a short probe; a smaller one within 3 %, as it wastes less on the last batch."""
    rates: dict[int, float] = {}
    for size in SIZES[device.type]:
        try:
            rates[size] = samples_per_second(scores, size, values, device)
        except torch.OutOfMemoryError:
            break
    if not rates:
        raise DdrsError(f"the model does not fit {device} at a batch of {SIZES[device.type][0]}; give a smaller batch size")
    return min(size for size, rate in rates.items() if rate >= 0.97 * max(rates.values()))


def samples_per_second(scores: Scores, size: int, values: int, device: torch.device, repeats: int = 3) -> float:
    """The best of a few forward passes of `size` images of `values` values, after one to warm up."""
    images = torch.rand(size, values, device=device)
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        scores(images).argmax(1).sum().item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return size / min(seconds[1:])


@contextmanager
def _exact_kernels(device: torch.device, kind: str) -> Iterator[None]:
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


@torch.inference_mode()
def _folded(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """A copy with BatchNorm folded, or the model itself if there is none to fold or folding it is not surely right."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return model
    probe = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)).to(device_of(model))
    try:
        folded = fuse(model)
        same = torch.allclose(folded(probe), model(probe), rtol=1e-3, atol=1e-4)
    except Exception:  # torch.fx raises many kinds for what it cannot trace
        return model
    return folded if same else model

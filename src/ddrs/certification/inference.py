"""Running a model as fast as it goes at an unchanged meaning: BatchNorm folded, channels_last, one fixed batch shape, a stated precision."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse, optimize_for_inference

from ddrs.certification.settings import PRECISIONS
from ddrs.errors import DdrsError
from ddrs.models.running import Scored, as_it_was, device_of, exact_kernels, taking_float32

Scores = Callable[[torch.Tensor], torch.Tensor]  # images (batch, d), float32 in the order of `flat`, to scores (batch, classes), float32
BATCH_SIZES = {"cpu": (64, 128, 256), "cuda": (512, 1024, 2048, 4096, 8192)}
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def flat(image: torch.Tensor) -> torch.Tensor:
    """The pixels of one image (C, H, W) in the order of channels_last memory, (H*W*C,); a vector as it is. Float32."""
    return (image.permute(1, 2, 0) if image.ndim == 3 else image).to(torch.float32).reshape(-1).contiguous()


@contextmanager
def running(model: nn.Module, shape: tuple[int, ...], precision: str) -> Iterator[list[Scores]]:
    """The model as functions of a batch of flat images, one for each thread that may run; run in eval mode and left as it was.

    shape: of one image. precision: a name of PRECISIONS; the certificate is for the function that runs here, so logs record it. BatchNorm is
    folded into the convolution before it, and on a CPU weights are laid out for oneDNN, where torch.fx can trace the model and the copy gives
    the same scores. Such copies share nothing, so a CPU runs one per thread, each on a batch of its own: faster than several threads
    on one batch, and the same kernels whatever the number of threads. A model that runs as it is gets one function. One whose weights are not
    float32 and that takes no float32 images is copied to float32 first.
    Errors: DdrsError for a precision that is unknown or needs a GPU.
    """
    device, threads = device_of(model), torch.get_num_threads()
    kind, _, compiled = precision.partition("-")
    if precision not in PRECISIONS:
        raise DdrsError(f"precision {precision!r}: unknown; known are {', '.join(PRECISIONS)}")
    if kind == "tf32" and device.type != "cuda":
        raise DdrsError("precision 'tf32': needs a CUDA device")
    dtype = DTYPES[kind]
    with as_it_was(model), exact_kernels(device, kind):
        whole = taking_float32(model, shape)
        nets = [_folded(whole, shape, for_cpu=device.type == "cpu" and precision == "float32")]
        if dtype != torch.float32:
            nets = [(copy.deepcopy(net) if net is model else net).to(dtype) for net in nets]
        elif device.type == "cpu" and not compiled and nets[0] is not whole:
            nets += [_folded(whole, shape, for_cpu=True) for _ in range(threads - 1)]
        try:
            torch.set_num_threads(threads if len(nets) == 1 else 1)
            yield [_as_scores(torch.compile(net) if compiled else net, shape, dtype) for net in nets]
        finally:
            torch.set_num_threads(threads)


def _as_scores(net: object, shape: tuple[int, ...], dtype: torch.dtype) -> Scores:
    scored = Scored(net)

    @torch.inference_mode()
    def scores(images: torch.Tensor) -> torch.Tensor:
        if len(shape) == 3:
            images = images.view(-1, shape[1], shape[2], shape[0]).permute(0, 3, 1, 2)
        found = scored(images.to(dtype))
        return found if found.dtype == torch.float32 else found.float()

    return scores


def best_batch_size(scores: Scores, values: int, device: torch.device) -> int:
    """The batch size of the most samples per second in a short probe; a smaller one within 3 %, as it wastes less on the last batch."""
    rates: dict[int, float] = {}
    for size in BATCH_SIZES.get(device.type, BATCH_SIZES["cpu"]):
        try:
            rates[size] = samples_per_second(scores, size, values, device)
        except torch.OutOfMemoryError:
            break
    if not rates:
        raise DdrsError(f"the model does not fit {device} at a batch of {size}; give a smaller batch size")
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


@torch.no_grad()
def _folded(model: nn.Module, shape: tuple[int, ...], for_cpu: bool) -> nn.Module:
    """A copy with BatchNorm folded, or the model itself if there is none to fold or folding it is not surely right."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return model
    probe = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)).to(device_of(model))
    before = _python_state(model)
    expected = Scored(model)(probe)
    if _python_state(model) != before:
        return model  # a trace would leave out what its forward pass remembers
    ways = [optimize_for_inference] if for_cpu else []
    for way in [*ways, lambda net: fuse(net).to(memory_format=torch.channels_last)]:  # type: ignore[call-overload]
        try:
            folded = way(model)
            if bool((Scored(folded)(probe) - expected).abs().max() <= 1e-4 * (expected.max() - expected.min())):
                return folded
        except Exception:  # torch.fx raises many kinds for what it cannot trace
            continue
    return model


def _python_state(model: nn.Module) -> list[tuple[str, object]]:
    """What the attributes of a model's modules are, without tensors' contents: enough to see that a forward pass changed one."""
    state: list[tuple[str, object]] = []
    for module in model.modules():
        for name, value in vars(module).items():
            plain = isinstance(value, bool | int | float | str | None)
            state.append((name, value if plain else (id(value), len(value) if isinstance(value, list | dict | set) else 0)))
    return state

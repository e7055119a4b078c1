"""Running a model as fast as it goes at an unchanged meaning: folded, laid out, a copy per thread, one fixed batch shape, a stated precision."""

import copy
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import nn

from ddrs.certification.settings import PRECISIONS
from ddrs.errors import DdrsError
from ddrs.models.layout import laid_out
from ddrs.models.running import Scored, as_it_was, device_of, exact_kernels, taking_float32

Scores = Callable[[torch.Tensor], torch.Tensor]  # images (batch, d), float32 in the order of `flat`, to scores (batch, classes), float32
BATCH_SIZES = {"cpu": (32, 64, 128, 256), "cuda": (512, 1024, 2048, 4096, 8192)}
FILLING = 2**17  # values in a batch: fewer cost less than the calls of a pass, more no longer fit a cache
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def flat(image: torch.Tensor) -> torch.Tensor:
    """The pixels of one image (C, H, W) in the order of channels_last memory, (H*W*C,); a vector as it is. Float32."""
    return (image.permute(1, 2, 0) if image.ndim == 3 else image).to(torch.float32).reshape(-1).contiguous()


@contextmanager
def running(model: nn.Module, shape: tuple[int, ...], precision: str) -> Iterator[list[Scores]]:
    """The model as functions of a batch of flat images, one for each thread that may run; run in eval mode and left as it was.

    shape: of one image. precision: a name of PRECISIONS; the certificate is for the function that runs here, so logs record it. Where
    torch.fx can trace the model and what is made of it gives the same scores, BatchNorm is folded into the convolution before it and, on a
    CPU, weights are laid out for oneDNN and activations fused. Another model is copied with its weights in channels_last.
    A CPU runs a copy per thread, each on a batch of its own: faster than several threads on one batch, and the same kernels
    whatever the number of threads. A plain function, of which no copy can be made, runs on all threads at once. A model whose weights are not
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
        net = laid_out(whole, shape, for_cpu=device.type == "cpu" and precision == "float32")
        alone = net is whole or compiled or device.type != "cpu"
        if dtype != torch.float32:
            net = (copy.deepcopy(net) if net is model else net).to(dtype)
        nets = [net] if alone else [net, *_copies(net, threads - 1)]
        scores = [_as_scores(torch.compile(net) if compiled else net, shape, dtype) for net in nets]
        try:
            if len(scores) == threads or device.type != "cpu":
                torch.set_num_threads(1 if device.type == "cpu" else threads)
                yield scores
            else:  # one function on all threads, always called in the same one; two batches, so that one is drawn meanwhile
                with ThreadPoolExecutor(1) as caller:
                    yield [lambda images: caller.submit(scores[0], images).result()] * 2
        finally:
            torch.set_num_threads(threads)


def _as_scores(net: object, shape: tuple[int, ...], dtype: torch.dtype) -> Scores:
    scored = Scored(net)

    @torch.inference_mode()
    def scores(images: torch.Tensor) -> torch.Tensor:
        torch.get_num_threads()  # by this a thread takes over what set_num_threads said in another one: oneDNN alone would use all processors
        if len(shape) == 3:
            images = images.view(-1, shape[1], shape[2], shape[0]).permute(0, 3, 1, 2)
        found = scored(images.to(dtype))
        return found if found.dtype == torch.float32 else found.float()

    return scores


def usual_batch_size(scores: Scores, values: int, device: torch.device) -> int:
    """As `best_batch_size`, without a probe: so that a batch has FILLING values."""
    if device.type == "cuda":
        return 1024
    return min(1024, max(64, 2 ** ((FILLING // values).bit_length() - 1)))


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


def _copies(net: nn.Module, count: int) -> list[nn.Module]:
    """As many more of a net for other threads: a frozen one as it is, which no pass changes, else copies that share its weights."""
    if isinstance(net, torch.jit.ScriptModule):
        return [net] * count
    return [copy.deepcopy(net, {id(weight): weight for weight in net.parameters()}) for _ in range(count)]

"""How a step runs: threads, device, folder for partial files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from ddrs.errors import DdrsError
from ddrs.files import output_file, output_folder
from ddrs.sections import THREADS_MAX, Section

if TYPE_CHECKING:
    import torch


class Runtime(Section):
    """How a step runs. No setting of the experiment; but training bytes depend on the threads, and a GPU draws other noise than a CPU."""

    threads: int = Field(1, ge=1, le=THREADS_MAX, description="CPU threads")
    device: str = Field("cpu", description="cpu, cuda or cuda:N")
    scratch: Annotated[Path, AfterValidator(output_folder)] = Field(
        Path("scratch"), description="folder for partial files, from which a killed step resumes"
    )
    sidecar: Annotated[Path | None, AfterValidator(output_file)] = Field(None, description="JSON to write with commit, versions, device and time")


def machine(runtime: Runtime, device: torch.device) -> list[int | str]:
    """What the bytes of a result depend on beside its settings and code: a killed step does not go on under another of these."""
    import torch

    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return [runtime.threads, device.type, kind, torch.__version__]


def prepare(runtime: Runtime) -> torch.device:
    """Set torch's threads and find the device, of several GPUs a free one; DdrsError if this machine has no such device."""
    import torch

    from ddrs.models.cards import take_card

    torch.set_num_threads(runtime.threads)
    if runtime.device == "cuda":  # cuda:N is a choice of its own
        take_card(lambda line: print(line, flush=True))
    return resolve_device(runtime.device)


def resolve_device(name: str) -> torch.device:
    """The torch device of that name; DdrsError if this machine has none."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise DdrsError(f"device {name!r}: unknown; use cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda") or name.startswith("cpu:"):
        raise DdrsError(f"device {name!r}: unknown; use cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DdrsError(f"device {name!r}: this machine has {torch.cuda.device_count()} usable CUDA devices")
    return device

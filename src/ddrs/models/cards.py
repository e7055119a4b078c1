"""One card per job on a machine with several: a job takes the first free one, and the others see that it is taken.

Snakemake counts GPUs, but does not say which one is whose. Here a lock file per card does, which the kernel releases with the process that
holds it, however that ends.
"""

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable

from filelock import FileLock, Timeout

from ddrs.files import cache_folder

POLL = 1.0  # seconds between two looks for a free card
_held: dict[str, FileLock] = {}  # of this process, by card: a lock that nothing refers to is released


def visible_cards() -> list[str]:
    """UUIDs of the cards that CUDA would show to this process: those in CUDA_VISIBLE_DEVICES, where it is set, else all of `nvidia-smi`.

    Numbers in it count as `nvidia-smi` and SLURM do, by PCI bus. What `nvidia-smi` does not know, say a MIG instance, stays as it stands there.
    """
    listed = _listed()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return listed
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    return [listed[int(name)] if name.isdigit() and int(name) < len(listed) else name for name in names]


def _listed() -> list[str]:
    try:
        text = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []  # torch will say what is wrong, if anything is
    return re.findall(r"^GPU \d+: .*\(UUID: (GPU-[^)]+)\)", text, re.MULTILINE)


def take_card(say: Callable[[str], None]) -> str | None:
    """Make one card the only one that CUDA shows to this process, and keep it from other jobs until the process ends.

    Waits while all are taken. Only before CUDA is initialised. None, and nothing changes, where there is no choice to make: no card or one.
    """
    if _held:
        return next(iter(_held))
    cards = visible_cards()
    if len(cards) < 2:
        return None
    folder = cache_folder() / "cards" / socket.gethostname()
    folder.mkdir(parents=True, exist_ok=True)
    told = False
    while True:
        for card in cards:
            lock = FileLock(folder / f"{card}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            _held[card] = lock
            os.environ["CUDA_VISIBLE_DEVICES"] = card
            return card
        if not told:
            say(f"all {len(cards)} GPUs are taken by other ddrs jobs: waiting for a free one (locks in {folder})")
            told = True
        time.sleep(POLL)

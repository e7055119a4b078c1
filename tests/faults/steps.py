"""The steps that are tried: what each reads, writes and leaves while it is at work."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

TRAINING = "--epochs 8 --batch-size 20 --learning-rate 0.05 --augment crop-flip --schedule cosine --branch-epoch 2"
STOPPING = Path(__file__).with_name("stopping.py")
LIMIT = 300  # seconds until a step is given up


@dataclass(frozen=True)
class Step:
    """A verb. words: with {world}, where its inputs are, and {folder}, where it writes; outputs: files there."""

    words: str
    outputs: tuple[str, ...]

    def command(self, world: Path, folder: Path) -> list[str]:
        return self.words.format(world=world, folder=folder).split()


STEPS = {
    "fetch": Step(
        "fetch pets --kind imagefolder --source {world}/pets --classes cat --classes dog --shape 3,8,8 --validation 40 --out {folder}/manifest.json",
        ("manifest.json", *(f"{split}.{part}.npy" for split in ("train", "validation", "test") for part in ("images", "labels"))),
    ),
    "train": Step(
        "train --data {world}/manifest.json --method cohen --architecture small_cnn --sigma 0.25 --out {folder}/m --branch-out {folder}/b"
        f" --scratch {{folder}}/scratch {TRAINING}",
        ("m", "b"),
    ),
    "finetune": Step(
        "finetune --data {world}/manifest.json --model {world}/m --branch {world}/b --out {folder}/m --scratch {folder}/scratch"
        f" --step-size 0.01 --samples 1 {TRAINING}",
        ("m",),
    ),
    "sigma": Step(
        "sigma --data {world}/manifest.json --model {world}/m --out {folder}/s --scratch {folder}/scratch --images 24 --batch-size 3 --k-max 60",
        ("s",),
    ),
    "certify": Step(
        "certify --data {world}/manifest.json --model {world}/m --out {folder}/l --scratch {folder}/scratch --sigma 0.25 --images 24 --n 2000"
        " --batch-size 100",
        ("l",),
    ),
}


def start(words: list[str]) -> "subprocess.Popen[str]":
    """A verb as a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "ddrs", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Its exit code and what it said, to both."""
    said, complained = process.communicate(timeout=LIMIT)
    return process.returncode, said, complained


def finish(words: list[str]) -> str:
    """Run a verb to its end, which must be a good one; what it said."""
    code, said, complained = ended(start(words))
    assert (code, complained) == (0, ""), complained
    return said


def stopped(words: list[str], folder: Path, fault: str, at: int) -> tuple[int, str, int]:
    """Run a verb into a fault at a file operation: exit code, what it complained of, and how many operations it came to (0 if it was killed)."""
    note = folder.parent / f"{folder.name}.operations"
    command = [sys.executable, STOPPING, folder, fault, at, note, *words]
    found = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=LIMIT)
    return found.returncode, found.stderr, int(note.read_text()) if note.exists() else 0


def killed_after(words: list[str], seconds: float) -> bool:
    """Start a verb and kill it after a time, unless it ends before. Whether it was killed."""
    process = start(words)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
    code, _, complained = ended(process)
    assert code in (0, -signal.SIGKILL), complained
    return code != 0


def killed_when(words: list[str], true) -> None:
    """Start a verb and kill it as soon as something is so."""
    process, deadline = start(words), time.monotonic() + LIMIT
    while not true():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    ended(process)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, but for the empty scratch folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

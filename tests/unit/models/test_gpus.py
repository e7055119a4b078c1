"""One card per job: which cards there are, and how processes share them. The cards are nvidia-smi's, and nvidia-smi is a script."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ddrs.models import cards, devices

CARDS = ["GPU-aaaa-1", "GPU-bbbb-2", "GPU-cccc-3"]


@pytest.fixture(autouse=True)
def no_card_held() -> Iterator[None]:
    yield
    for lock in cards._held.values():
        lock.release()
    cards._held.clear()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """Gives this process and its children a machine with so many cards, and nobody's locks."""

    def build(count: int) -> Path:
        lines = "".join(f"GPU {i}: NVIDIA H200 (UUID: {card})\n" for i, card in enumerate(CARDS[:count]))
        tool = tmp_path / "bin" / "nvidia-smi"
        tool.parent.mkdir()
        tool.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}END\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("DDRS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(cards, "POLL", 0.05)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that it is put back, whatever a test does to it
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        return tmp_path / "cache"

    return build


def job(environment: dict[str, str] | None = None) -> tuple[subprocess.Popen[str], str]:
    """Another process that takes a card and keeps it until it is killed; its first line: the card, or that it waits."""
    code = """
import os, time
from ddrs.models import cards as gpus
gpus.POLL = 0.05
gpus.take_card(lambda line: print(line, flush=True))
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
    assert process.stdout
    return process, process.stdout.readline().strip()


def test_each_process_has_a_card_of_its_own_and_a_killed_one_frees_its(machine: Callable[[int], Path]) -> None:
    machine(2)
    jobs = [job()]
    try:
        jobs.append(job())
        jobs.append(job())
        assert [said for _, said in jobs[:2]] == CARDS[:2]
        waiting, said = jobs[2]
        assert said.startswith("all 2 GPUs are taken by other ddrs jobs: waiting for a free one")
        jobs[1][0].send_signal(signal.SIGKILL)
        assert waiting.stdout and waiting.stdout.readline().strip() == CARDS[1]
    finally:
        for process, _ in jobs:
            process.kill()
            process.communicate()


def test_only_cards_that_are_visible_are_taken(machine: Callable[[int], Path]) -> None:
    """As SLURM gives them out: by number, or by UUID."""
    machine(3)
    first, said = job({"CUDA_VISIBLE_DEVICES": "2,1"})
    second, said_second = job({"CUDA_VISIBLE_DEVICES": "GPU-cccc-3,GPU-bbbb-2"})
    for process in (first, second):
        process.kill()
        process.communicate()
    assert (said, said_second) == (CARDS[2], CARDS[1])


@pytest.mark.parametrize(("count", "visible"), [(0, None), (1, None), (3, "1"), (3, ""), (3, "MIG-1234")])
def test_without_a_choice_nothing_changes(machine: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, count: int, visible: str | None) -> None:
    cache = machine(count)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert cards.take_card(pytest.fail) is None
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
    assert not cache.exists()


def test_a_machine_without_nvidia_smi_has_no_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert cards.visible_cards() == []


def test_a_verb_takes_one_card_and_only_for_cuda(machine: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(2)
    monkeypatch.setattr("ddrs.models.devices.resolve_device", lambda name: name)
    for device in ("cpu", "cuda:1"):
        devices.prepare(devices.Runtime(device=device))
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
    for _ in range(2):  # the same one, however often a process asks
        devices.prepare(devices.Runtime(device="cuda"))
        assert os.environ["CUDA_VISIBLE_DEVICES"] == CARDS[0]


def test_a_verb_without_the_gpu_that_it_was_told_to_use_ends_in_one_line(
    ddrs_cli: Callable[..., tuple[int, str, str]], small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    words = ("--method", "cohen", "--architecture", "small_cnn", "--sigma", 0.5, "--epochs", 1, "--device", "cuda")
    code, _, error = ddrs_cli("train", "--data", small_mnist, "--out", tmp_path / "model.safetensors", "--scratch", tmp_path / "scratch", *words)
    assert code == 2 and error == "ddrs: error: device 'cuda': this machine has 0 usable CUDA devices\n"
    assert not (tmp_path / "model.safetensors").exists()

"""What commands compute, counted by hand; what a dry run's text is read as; and the probes."""

import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ddrs.commands.main import app
from ddrs.data.sources import SOURCES, source_of
from ddrs.errors import DdrsError
from ddrs.models.architectures import build_model
from ddrs.operations import plan, probe
from ddrs.operations.plan import Command, KnownFiles, Work, commands_of, duration, estimate, seconds_of, work_of
from ddrs.operations.probe import Certification, Network, Search, Training, flops_per_forward
from ddrs.sigma.settings import SearchSettings
from ddrs.training.settings import RegimeSettings, TrainSettings

FETCH = "fetch mnist5k --out data/manifest.json"
FETCH_CIFAR = "fetch cifar10 --out data/manifest.json"
TRAIN = "train --data data/manifest.json --method cohen --sigma 0.25 --out fs.safetensors --branch-out b.pt --architecture small_cnn"
ATTACKED = TRAIN.replace("cohen", "smoothadv") + " --loss epsilon=0.5 --loss attack_steps=3 --loss noise_samples=2"
FINETUNE = "finetune --data data/manifest.json --model fs.safetensors --out ds2.safetensors"
SIGMA = "sigma --model ds2.safetensors --data data/manifest.json --out s.parquet"
CERTIFY = "certify --model fs.safetensors --data data/manifest.json --sigma 0.25 --out c.tsv"
MNIST = Network("small_cnn", (1, 28, 28), 10)


def read(*commands: str) -> list[Command]:
    """Commands as Snakemake prints them, read back."""
    lines = [f"Job 1: something\nShell command: ddrs {command} > logs/x.log 2>&1" for command in commands]
    return commands_of("\n\n".join(lines), app)


def last(*commands: str) -> Work:
    """The work of the last of some commands."""
    found = read(*commands)
    return work_of(found[-1], KnownFiles(found))


# samples: images * epochs * passes; forwards: 3 for a pass back to the weights, 2 for one back to the image, 1 for one without
@pytest.mark.parametrize(
    ("commands", "images", "samples", "forwards"),
    [
        ([FETCH, f"{TRAIN} --epochs 15"], 4000, 4000 * 15, 3 * 4000 * 15),
        # 2 noise samples, each once for the weights and 3 times for the attack
        ([FETCH, f"{ATTACKED} --epochs 10"], 4000, 4000 * 10 * 2 * 4, 4000 * 10 * 2 * (3 + 3 * 2)),
        # 5,000 of the 50,000 training images are held out
        ([FETCH_CIFAR, f"{TRAIN} --epochs 2"], 45_000, 45_000 * 2, 3 * 45_000 * 2),
        ([f"{FETCH_CIFAR} --validation 10", f"{TRAIN} --epochs 2"], 49_990, 49_990 * 2, 3 * 49_990 * 2),
        # per-example sigma: one sample more per image, back to the image; 15 - 4 epochs are left of a branched run
        ([FETCH, f"{TRAIN} --epochs 15 --branch-epoch 4", f"{FINETUNE} --branch b.pt --epochs 15"], 4000, 44_000 * 2, 44_000 * 5),
        ([FETCH, f"{TRAIN} --epochs 15", f"{FINETUNE} --epochs 8 --samples 3"], 4000, 32_000 * 4, 32_000 * (3 + 3 * 2)),
        # the class is looked for at sigma_0 and at sigma*, and a third time if it is fixed, with 100 samples each
        ([FETCH, TRAIN + " --epochs 1", FINETUNE + " --epochs 1", f"{SIGMA} --images 7 --k-max 30 --samples 4"], 7, 7 * 320, 7 * (240 + 200)),
        ([FETCH, TRAIN + " --epochs 1", FINETUNE + " --epochs 1", f"{SIGMA} --k-max 30 --objective-class fixed"], 500, 500 * 330, 500 * 360),
        (
            [FETCH, TRAIN + " --epochs 1", FINETUNE + " --epochs 1", f"{SIGMA} --strategy qcrs --k-max 6 --samples 500 --objective-class fixed"],
            500,
            500 * 7700,  # 15 radii or classes, and the class at both ends
            500 * 7700,
        ),
        # a point of the grid is a forward pass, without one back
        ([FETCH, TRAIN + " --epochs 1", FINETUNE + " --epochs 1", f"{SIGMA} --strategy grid --k-max 30"], 500, 500 * 230, 500 * 230),
        ([FETCH, TRAIN + " --epochs 1", f"{CERTIFY} --images 100 --n0 50 --n 2500"], 100, 255_000, 255_000),
        ([FETCH_CIFAR, TRAIN + " --epochs 1", f"{CERTIFY} --split validation"], 5000, 5000 * 100_100, 5000 * 100_100),
        ([FETCH, TRAIN + " --epochs 1", f"{CERTIFY} --images 100 --n 900 --shard 1/3"], 34, 34_000, 34_000),
        ([FETCH, TRAIN + " --epochs 1", f"{CERTIFY} --images 100 --n 900 --shard 3/3"], 33, 33_000, 33_000),
    ],
)
def test_work_is_what_a_hand_counts(commands: list[str], images: int, samples: int, forwards: int) -> None:
    found = last(*commands)
    assert (found.images, found.samples, found.forwards) == (images, samples, forwards)
    assert found.network == Network("small_cnn", source_of(commands[0].split()[1]).shape, 10)


@pytest.mark.parametrize(
    ("flags", "at_most"), [("", False), ("--protocol fixed", False), ("--protocol two-stage", True), ("--protocol sequential --radii 0.5", True)]
)
def test_only_a_protocol_that_may_stop_early_is_an_upper_bound(flags: str, at_most: bool) -> None:
    found = last(FETCH, f"{TRAIN} --epochs 1", f"{CERTIFY} --n0 20 --n 1000 --images 3 {flags}")
    assert (found.samples, found.is_upper_bound) == (3 * 1020, at_most)


def test_steps_without_a_network_are_jobs_alone() -> None:
    assert last(FETCH) == Work("fetch")
    assert last("merge a.tsv b.tsv --out c.tsv") == Work("merge")


def test_certification_is_timed_with_the_noise_that_it_draws() -> None:
    commands = [FETCH, f"{TRAIN} --epochs 1"]
    assert last(*commands, CERTIFY).probe == Certification(MNIST, "lattice", "float32")
    assert last(*commands, f"{CERTIFY} --noise gaussian --precision bfloat16").probe == Certification(MNIST, "gaussian", "bfloat16")


def test_training_runs_that_cost_the_same_are_timed_once() -> None:
    first, weaker, longer = (
        last(FETCH, f"{ATTACKED} --epochs 3 {more}") for more in ("", "--loss epsilon=1.0 --learning-rate 0.1", "--loss attack_steps=4")
    )
    assert first.probe == weaker.probe and first.probe != longer.probe


def test_files_that_exist_say_what_no_command_does(trained: Path, small_mnist: Path) -> None:
    """200 training and 30 test images; the model was trained for 4 epochs, after which a branch begins."""
    at = f"--model {trained} --data {small_mnist}"
    assert last(f"certify {at} --sigma 0.25 --out c.tsv --n 900").samples == 30 * 1000
    assert last(f"finetune {at} --out m --epochs 6 --branch b.pt").samples == 200 * 2 * 2
    assert last(f"finetune {at} --out m --epochs 6").samples == 200 * 6 * 2


def test_a_planned_file_goes_before_the_one_that_exists(trained: Path, small_mnist: Path) -> None:
    again = f"train --data {small_mnist} --method cohen --sigma 0.5 --out {trained} --architecture resnet18 --epochs 1"
    assert last(again, f"certify --model {trained} --data {small_mnist} --sigma 0.5 --out c.tsv").network == Network("resnet18", (1, 28, 28), 10)


@pytest.mark.parametrize(
    ("commands", "words"),
    [
        ([FETCH, CERTIFY], ["checkpoint fs.safetensors", "no such file"]),
        ([f"{TRAIN} --epochs 1"], ["dataset manifest data/manifest.json", "no such file"]),
        (["fetch mnist6k --out data/manifest.json", f"{TRAIN} --epochs 1"], ["mnist6k", "unknown", "mnist5k"]),
        ([FETCH, f"{ATTACKED} --epochs 1 --loss epsilom=1"], ["epsilom", "epsilon"]),
        ([FETCH, f"{TRAIN} --epochs 0"], ["epochs", "greater than or equal to 1"]),
        (["fetsch mnist5k"], ["ddrs fetsch"]),
    ],
)
def test_a_command_that_cannot_work_is_one_line(commands: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DdrsError) as error:
        last(*commands)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_sizes_are_those_of_the_sources(mnist5k: Path) -> None:
    assert [kind for kind in SOURCES if not source_of(kind).sizes] == [kind for kind in SOURCES if source_of(kind).count] == ["imagefolder"]
    splits = json.loads(mnist5k.read_text())["splits"]
    assert source_of("mnist5k").sizes == {name: facts["count"] + facts["dropped_duplicates"] for name, facts in splits.items()}


def test_only_ddrs_commands_are_read() -> None:
    text = """
        Job 1: ddrs is mentioned
        Shell command: ddrs merge 'a b.tsv' c.tsv --out 'my logs/d.tsv' > 'my logs/x' 2>&1
        Shell command: echo ddrs fetch mnist5k
        ddrs: error: nothing
    """
    assert commands_of("\n".join(line.strip() for line in text.splitlines()), app) == [
        Command("merge", {"shards": [Path("a b.tsv"), Path("c.tsv")], "out": Path("my logs/d.tsv")})
    ]
    (script,) = commands_of("rule a:\nShell command: \n        ddrs merge a.tsv --out d.tsv\n", app)
    assert script.flags["out"] == Path("d.tsv")


def test_flops_are_two_per_multiply_add() -> None:
    """Convolutions to 14x14x16 and twice to 7x7x32, and two linear layers."""
    macs = 14 * 14 * 16 * 25 + 7 * 7 * 32 * (25 * 16 + 9 * 32) + 7 * 7 * 32 * 128 + 128 * 10
    assert flops_per_forward(MNIST) == 2 * macs


def test_passes_cost_what_the_plan_says() -> None:
    model = build_model("small_cnn", (1, 28, 28), 10)

    def cost(work: Callable[[torch.Tensor], object]) -> float:
        x = torch.rand(2, 1, 28, 28, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            work(x * 1)
        return counter.get_total_flops() / 2 / flops_per_forward(MNIST)

    assert cost(lambda x: torch.autograd.grad(model(x).sum(), x)) == probe.IMAGE_GRADIENT
    assert cost(lambda x: model(x).sum().backward()) == probe.UPDATE


@dataclass(frozen=True)
class Known:
    """A probe whose result is known."""

    name: str

    def seconds(self, device: torch.device) -> float:
        return {"slow": 2.0, "fast": 0.5}[self.name]


def test_the_estimate_adds_up() -> None:
    slow, fast = Known("slow"), Known("fast")
    work = [
        Work("certify", 10, 40, 40, True, MNIST, slow, 4),
        Work("fetch"),
        Work("train", 5, 20, 60, False, MNIST, fast, 8),
        Work("train", 5, 20, 60, False, MNIST, slow, 8),
    ]
    assert [seconds_of(one, {slow: 2.0, fast: 0.5}) for one in work] == [8, 0, 4, 16]
    rows = estimate(work, {slow: 2.0, fast: 0.5}, startup=1.0, jobs=2, order=["fetch", "train", "sigma", "certify"])
    flops = flops_per_forward(MNIST)
    assert [tuple(row[name] for name in plan.COLUMNS) for row in rows] == [
        ("fetch", 1, 0, 0, False, 0, 0.5),
        ("train", 2, 10, 40, False, 120 * flops, (4 + 16 + 2) / 2),
        ("certify", 1, 10, 40, True, 40 * flops, (8 + 1) / 2),
        ("total", 4, None, 80, True, 160 * flops, (28 + 4) / 2),
    ]


@pytest.mark.parametrize(("seconds", "text"), [(0.01, "1 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (186, "3 min 06 s"), (7505, "2 h 05 min")])
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_probes_measure_the_work_they_name() -> None:
    """Twenty times the steps of a search, or five attack steps more, must show in the time, however noisy it is."""
    device, search = torch.device("cpu"), SearchSettings(k_max=50, batch_size=8)
    settings = TrainSettings(epochs=1, loss={"epsilon": 0.5, "attack_steps": 6, "noise_samples": 1})
    short, long = (Search(MNIST, "gaussian", search.model_copy(update={"k_max": k})).seconds(device) for k in (50, 1000))
    assert 0 < 3 * short < long
    assert 0 < Search(MNIST, "gaussian", search.model_copy(update={"k_max": 500, "strategy": "grid"})).seconds(device) < long
    plain = Training(MNIST, "cohen", "gaussian", (1, 0), 16, "none", "sgd", None, TrainSettings(epochs=1)).seconds(device)
    attacked = Training(MNIST, "smoothadv", "gaussian", (1, 7), 16, "flip", "adam", RegimeSettings(), settings).seconds(device)
    assert 0 < 1.5 * plain < attacked
    assert 0 < Certification(MNIST, "lattice", "float32").seconds(device) < 0.1


def test_images_that_threads_end_together_are_not_timed_as_if_some_took_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two end every 50 ms: so a sample takes 50 ms / 2 images / 2 batches of 10."""

    def each(model: object, images: torch.Tensor, *rest: object, **more: object) -> Iterator[int]:
        for i in range(0, len(images), 2):
            time.sleep(0.05)
            yield from (i, i + 1)

    monkeypatch.setattr(probe, "certify_each", each)
    monkeypatch.setattr(probe, "best_batch_size", lambda *given: 10)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert 0.05 / 40 <= Certification(MNIST, "gaussian", "float32").seconds(torch.device("cpu")) < 2 * 0.05 / 40
    finally:
        torch.set_num_threads(before)


def test_a_cpu_probes_a_part_of_a_batch_that_takes_long() -> None:
    large = Network("resnet18", (3, 32, 32), 10)
    assert probe._affordable(128, 3, large, torch.device("cpu")) == int(2e10 / (3 * 1_110_845_440))
    assert probe._affordable(128, 3, large, torch.device("cuda")) == 128
    assert probe._affordable(128, 3, MNIST, torch.device("cpu")) == 128
    assert probe._affordable(128, 30, large, torch.device("cpu")) == 2


def test_a_search_of_many_samples_is_probed_in_a_part_of_a_batch_that_fits_a_card() -> None:
    def images(strategy: str) -> int:
        return Search(MNIST, "gaussian", SearchSettings(strategy=strategy, k_max=6, samples=500)).batch_size(torch.device("cuda"))

    assert [images(strategy) for strategy in ("ascent", "grid", "qcrs")] == [100, 100, 8192 // 500]
    assert Search(MNIST, "gaussian", SearchSettings(strategy="qcrs", k_max=1, samples=100)).seconds(torch.device("cpu")) > 0


def test_without_snakemake_it_says_what_to_install(ddrs_cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, out, err = ddrs_cli("plan")
    assert (code, out) == (2, "") and err.startswith("ddrs: error: plan: needs snakemake") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "word"), [(["--format", "md"], "table or csv"), (["--jobs", 0], "--jobs"), (["--threads", 0], "--threads"), (["--snakefile", "x"], "x")]
)
def test_wrong_options_are_one_line(ddrs_cli: Callable[..., tuple[int, str, str]], flags: list[object], word: str) -> None:
    code, out, err = ddrs_cli("plan", *flags)
    assert (code, out) == (2, "") and word in err and err.count("\n") == 1

"""`ddrs plan --on`: whose job is whose, and FLOPs into hours, on a small graph counted by hand."""

from collections.abc import Callable

import pytest

from ddrs.commands.main import app
from ddrs.operations import plan
from ddrs.operations.gpu_hours import CARDS, Cost, CostRow, by_row
from ddrs.operations.plan import Command, commands_of
from ddrs.operations.probe import Network, flops_per_forward

FLOPS = flops_per_forward(Network("small_cnn", (1, 28, 28), 10))
AT = "--data d/manifest.json"


def certify(out: str, more: str) -> str:
    return f"certify {AT} --images 10 --n0 50 --n 250 --out {out} {more}"  # 3,000 samples


TRAIN = f"train {AT} --method cohen --sigma 0.25 --architecture small_cnn --epochs 2 --out fs.m --branch-out fs.b"
GRAPH = [
    "cell ds2-5.mem --table table1 --label cohen-ds2 --radii 0,0.5 --out-dir c",
    "cell ds-5.mem ds-9.mem --table table1 --label cohen-ds --radii 0,0.5 --out-dir c",
    "cell fs.mem --validation fs-v.log --table table1_selected --label cohen --radii 0,0.5 --out-dir c",
    "cell fs.log --table table1 --label cohen --radii 0,0.5 --out-dir c",
    certify("fs.log", "--model fs.m --sigma 0.25"),
    certify("fs-v.log", "--model fs.m --sigma 0.25 --split validation"),
    f"sigma --model fs.m {AT} --k-max 30 --images 10 --out fs.s",
    *[certify(f"ds-{k}.{part}", f"--model fs.m --sigmas fs.s --k {k} --shard {part}/2") for k in (5, 9) for part in (1, 2)],
    *[f"merge ds-{k}.1 ds-{k}.2 --out log/ds-{k}.mem" for k in (5, 9)],
    f"remember log/ds-5.mem log/ds-9.mem {AT} --out-dir .",
    f"finetune {AT} --model fs.m --branch fs.b --epochs 2 --out ds2.m",
    f"sigma --model ds2.m {AT} --k-max 30 --images 10 --out ds2.s",
    certify("log/ds2-5.mem", "--model ds2.m --sigmas ds2.s --k 5 --precision bfloat16-compiled"),
    f"remember log/ds2-5.mem {AT} --out-dir .",
    certify("log/ds-0.mem", "--model fs.m --sigmas fs.s --k 0"),  # of a figure
    TRAIN,
    "fetch mnist5k --out d/manifest.json",
]


def read(lines: list[str]) -> list[Command]:
    return commands_of("\n".join(f"Shell command: ddrs {line} > x 2>&1" for line in lines), app)


def row(label: str) -> CostRow:
    return CostRow("table1", "mnist5k", label)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_job_counts_once_to_the_first_row_that_needs_it(backwards: bool) -> None:
    """Whatever the order of the dry run. The FS model, its branch and its test log are the FS row's; the search of all K is the DS row's."""
    lines = [line.replace("--branch-out fs.b", "--branch-out fs.b --branch-epoch 1") if line == TRAIN else line for line in GRAPH]
    costs = by_row(read(lines[::-1] if backwards else lines))
    assert list(costs) == [row("cohen"), row("cohen-ds"), row("cohen-ds2"), CostRow("-", "-", "other")]
    assert [cost.jobs for cost in costs.values()] == [6, 9, 5, 1]
    assert sum(cost.jobs for cost in costs.values()) == len(GRAPH)
    search = ("search", "float32"), 10 * (2 * 30 + 200) * FLOPS
    assert dict(costs[row("cohen")].flops) == {("training", "float32"): 4000 * 2 * 3 * FLOPS, ("certification", "float32"): 2 * 3000 * FLOPS}
    assert dict(costs[row("cohen-ds")].flops) == {search[0]: search[1], ("certification", "float32"): 2 * 3000 * FLOPS}
    ds2 = {("training", "float32"): 4000 * (3 + 2) * FLOPS, search[0]: search[1], ("certification", "bfloat16"): 3000 * FLOPS}
    assert dict(costs[row("cohen-ds2")].flops) == ds2
    assert dict(costs[CostRow("-", "-", "other")].flops) == {("certification", "float32"): 3000 * FLOPS}


def test_hours_are_flops_over_the_peak_of_their_precision() -> None:
    cost = Cost()
    cost.flops.update({("training", "tf32"): int(156e12 * 3600), ("certification", "bfloat16"): int(2 * 312e12 * 3600)})
    assert cost.hours("a100", 1) == pytest.approx(3) and cost.hours("a100", 0.25) == pytest.approx(12)
    assert cost.hours("h200", 1) == pytest.approx(156 / 494.5 + 2 * 312 / 989.5)


def test_a_card_has_a_peak_for_every_precision_of_the_config() -> None:
    from ddrs.certification.settings import PRECISIONS

    assert all(set(peaks) == {name.removesuffix("-compiled") for name in PRECISIONS} for peaks in CARDS.values())


def test_a_protocol_that_stops_early_is_at_most() -> None:
    lines = [f"{line} --protocol sequential --radii 0.5" if "--split validation" in line else line for line in GRAPH]
    assert [cost.is_upper_bound for cost in by_row(read(lines)).values()] == [True, False, False, False]


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dry run says GRAPH."""
    text = "\n".join(f"Shell command: ddrs {line} > x 2>&1" for line in GRAPH)
    monkeypatch.setattr(plan, "dry_run", lambda targets, snakefile, configfiles: text)


def test_the_total_is_the_sum_of_the_rows(graph: None, ddrs_cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = ddrs_cli("plan", "--on", "a100", "--on", "h200", "--utilisation", "0.5", "--format", "csv")
    assert (code, err) == (0, "")
    head, *rows = [line.split(",") for line in out.splitlines()]
    assert head == [
        "table",
        "dataset",
        "label",
        "jobs",
        "at_most",
        "training_flops",
        "search_flops",
        "certification_flops",
        "a100_hours",
        "h200_hours",
    ]
    assert [one[:3] for one in rows[-2:]] == [["-", "-", "other"], ["total", "", ""]]
    for column in (3, 5, 6, 7):
        assert sum(int(one[column]) for one in rows[:-1]) == int(rows[-1][column]) > 0


def test_the_table_says_what_it_stands_on(graph: None, ddrs_cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = ddrs_cli("plan", "--on", "h200")
    assert (code, err) == (0, "")
    lines = {" ".join(line.split()[:3]): line.split()[3:] for line in out.splitlines()}
    assert lines["table dataset label"] == ["jobs", "training", "search", "certification", "h200", "hours"]
    assert lines["table1 mnist5k cohen-ds"][:2] == ["9", "-"]
    for part in ("35% of the peak", "h200 989.5 in bfloat16, h200 67 in float32", "certification bfloat16 and float32", "counts once"):
        assert part in out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--on", "h100"], ["card 'h100'", "h200, a100"]),
        (["--on", "h200", "--utilisation", "0"], ["utilisation 0", "above 0 and at most 1"]),
        (["--on", "h200", "--utilisation", "1.01"], ["utilisation 1.01"]),
        (["--on", "h200", "--utilisation", "nan"], ["utilisation nan"]),
        (["--on", "h200", "--format", "md"], ["table or csv"]),
        (["--on", "h200", "--device", "cuda"], ["--on", "--device"]),
    ],
)
def test_bad_input_is_one_line(words: list[str], parts: list[str], ddrs_cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = ddrs_cli("plan", *words)
    assert (code, out) == (2, "") and err.startswith("ddrs: error: ") and err.count("\n") == 1
    assert all(part in err for part in parts)

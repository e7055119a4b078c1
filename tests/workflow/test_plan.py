"""`ddrs plan` on the whole DAG at its smallest scale: it counts what the config says, and makes nothing."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from running import ROOT, TINY

from ddrs.operations.probe import Certification, Training

Plan = Callable[..., tuple[int, str, str]]
FLOPS = 2_718_336  # of a forward pass of small_cnn on 28x28


@pytest.fixture
def plan(ddrs_cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """`ddrs plan` with the project's Snakefile and tiny.yaml, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: ddrs_cli("plan", "--snakefile", ROOT / "Snakefile", "--configfile", TINY, *words)


def rows(text: str) -> dict[str, dict[str, str]]:
    return {row["step"]: row for row in csv.DictReader(io.StringIO(text))}


def files(folder: Path) -> dict[str, int]:
    """What lies in a folder, but for what Snakemake keeps for itself."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if ".snakemake" not in path.parts}


def test_the_plan_is_the_config_counted_by_hand(plan: Plan, tmp_path: Path) -> None:
    """Two sigmas; 4,000 training images, SmoothAdv with 2 attack steps; 4 test images, K of 5 and 20, n0 = 100 and n = 200.

    Another run holds the folder's lock meanwhile.
    """
    lock = tmp_path / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("results/table2.csv\n")
    code, out, err = plan("--format", "csv", "results/table2.csv")
    assert (code, err) == (0, "")
    found = rows(out)
    counts = {step: tuple(int(row[name] or -1) for name in ("jobs", "images", "samples", "at_most", "flops")) for step, row in found.items()}
    assert counts == {
        "fetch": (1, 0, 0, 0, 0),
        "train": (2, 8000, 8000 * (1 + 2), 0, 8000 * (3 + 2 * 2) * FLOPS),
        "finetune": (2, 8000, 8000 * (1 + 2 + 1), 0, 8000 * (3 + 2 * 2 + 2) * FLOPS),
        "sigma": (4, 16, 16 * (20 + 300), 0, 16 * (2 * 20 + 300) * FLOPS),
        "certify": (10, 40, 40 * (100 + 200), 0, 40 * (100 + 200) * FLOPS),
        "remember": (4, 0, 0, 0, 0),
        "cell": (3, 0, 0, 0, 0),
        "table": (1, 0, 0, 0, 0),
        "total": (27, -1, 24_000 + 32_000 + 5120 + 12_000, 0, (56_000 + 72_000 + 5440 + 12_000) * FLOPS),
    }
    seconds = {step: float(row["seconds"]) for step, row in found.items()}
    assert seconds["total"] == pytest.approx(sum(seconds.values()) - seconds["total"], abs=0.01)
    assert all(seconds[step] > row[0] * seconds["fetch"] for step, row in counts.items() if row[2])  # more than starting its jobs
    assert files(tmp_path) == {} and lock.read_text() == "results/table2.csv\n"


@pytest.mark.usefixtures("plan_here")
def test_a_protocol_that_stops_early_is_planned_at_most(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At known speeds: 1,200 samples of 0.1 s and 2 epochs of 4,000 images at 0.01 s; two jobs at a time."""
    monkeypatch.setattr(Certification, "seconds", lambda self, device: 0.1)
    monkeypatch.setattr(Training, "seconds", lambda self, device: 0.01)
    monkeypatch.setattr("ddrs.operations.plan._startup", lambda: 10.0)
    overlay = tmp_path / "sequential.yaml"
    overlay.write_text("certify: {mnist5k: {protocol: sequential, shards: 2}}\n")
    code, out, err = plan("--configfile", overlay, "--jobs", "2", "results/certificates/mnist5k/test/cohen/fs/sigma_0.25.tsv")
    assert (code, err) == (0, "")
    lines = {line.split("  ")[0]: " ".join(line.split()) for line in out.splitlines()}
    assert lines["train"] == "train 1 4,000 8,000 6.52e+10 45 s"
    assert lines["certify"] == "certify 2 4 at most 1,200 at most 3.26e+09 at most 1 min 10 s"
    assert lines["merge"] == "merge 1 - - - 5 s"
    assert lines["total"] == "total 5 - at most 9,200 at most 6.85e+10 at most 2 min 05 s"
    assert "2 jobs side by side" in out and "At most: the protocol stops" in out


@pytest.mark.usefixtures("plan_here")
def test_a_finished_run_leaves_nothing_to_plan_and_a_change_what_it_reruns(
    plan: Plan, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(tiny)
    monkeypatch.chdir(tiny)
    assert plan("results/table2.csv") == (0, "Nothing to be done: every file that the targets need is there and up to date.\n", "")
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("certify: {mnist5k: {n: 300}}\n")
    found = rows(plan("--configfile", overlay, "--format", "csv", "results/table2.csv")[1])
    assert set(found) == {"certify", "remember", "cell", "table", "total"}
    assert (found["certify"]["jobs"], found["certify"]["samples"]) == ("10", str(40 * 400))
    assert files(tiny) == before


@pytest.mark.usefixtures("plan_here")
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["results/nonsense.csv"], ["MissingRuleException", "results/nonsense.csv"]),
        (["--configfile", "bad.yaml"], ["config: certify.mnist5k.n", "greater than or equal to 1", "-3"]),
        (["--configfile", "broken.yaml"], ["Config file is not valid JSON or YAML"]),
        (["--configfile", "missing.yaml"], ["config file missing.yaml", "no such file"]),
        (["--device", "cuda:99", "data/mnist5k/manifest.json"], ["cuda:99", "CUDA devices"]),
    ],
)
def test_what_cannot_be_planned_is_one_line(plan: Plan, tmp_path: Path, words: list[str], parts: list[str]) -> None:
    (tmp_path / "bad.yaml").write_text("certify: {mnist5k: {n: -3}}\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    code, out, err = plan(*words)
    assert (code, out) == (2, "") and err.startswith("ddrs: error: ") and err.count("\n") == 1
    assert all(part in err for part in parts)

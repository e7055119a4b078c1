"""configs/paper.yaml: the whole DAG of the paper, counted from what it says, with no data at hand and none touched."""

import re
from pathlib import Path

import pytest
from running import ROOT, dry
from test_dag import planned

from ddrs.data.sources import source_of
from ddrs.results.published.printed import PRINTED_IMAGES, printed_row

PAPER = ROOT / "configs" / "paper.yaml"
SIGMAS, K = 3, 4  # of each method on each dataset; [100, 300, 900, 1500]
SHARDS = {"cifar10": 5, "imagenet": 4}
METHODS = {"cifar10": ["cohen", "smoothadv", "macer", "yang"], "imagenet": ["cohen", "smoothadv", "yang"]}  # Table 3 is of CIFAR-10 only
WITH_DS2 = {"cifar10": 3, "imagenet": 2}  # all but yang
ROWS = {name: len(methods) + len(methods) + WITH_DS2[name] for name, methods in METHODS.items()}  # fs, ds and ds2: 11 and 8
SEARCHED = {name: ROWS[name] - len(methods) for name, methods in METHODS.items()}  # ds and ds2: 7 and 5

# What figures need beside the tables, on test images: Figure 7's K = 0 for each of its DS2 panels (of a DS model it is row FS), and Figure 8's grids
# of 200, 100, 50 and 20 points for each sigma. Figures 6 and 9, the other K of Figure 7 and Figure 8's K = 100 are runs of the tables.
FIGURE_7 = {"cifar10": 3, "imagenet": 2}
FIGURE_8 = {"cifar10": 4 * SIGMAS, "imagenet": 0}
BESIDE = {name: FIGURE_7[name] + FIGURE_8[name] for name in METHODS}

# A certificate of the test images for each row and sigma, with a K where it is searched. Nothing is held out of training: there are no others.
CERTIFICATES = {name: SIGMAS * (len(METHODS[name]) + K * SEARCHED[name]) + BESIDE[name] for name in METHODS}
CELLS = {f"cells_table{table}{form}_{name}": 2 if table == 4 else 3 for table in (1, 2, 3, 4) for form in ("", "_selected") for name in METHODS}

WHOLE = {
    "fetch": 2,
    "train": sum(SIGMAS * len(methods) for methods in METHODS.values()),
    "finetune": sum(SIGMAS * count for count in WITH_DS2.values()),
    "sigma": sum(SIGMAS * SEARCHED[name] + FIGURE_8[name] for name in METHODS),  # one trajectory holds every K
    "certify_shard": sum(SHARDS[name] * CERTIFICATES[name] for name in METHODS),
    "merge": sum(CERTIFICATES.values()),
    **{f"remember_{name}": SIGMAS * SEARCHED[name] for name in METHODS},  # all K in one pass
    **{f"remember_run_{name}": BESIDE[name] for name in METHODS},
    **{rule: count for rule, count in CELLS.items() if not re.fullmatch("cells_table3(_selected)?_imagenet", rule)},
    "table": 4 * 2,
    "comparison": 4,
    "claims": 1,
    "per_class": 4,
    "page": 4 * 4 + 1,  # of the report: each table in both forms, its comparison and classes, and the claims
    "picture": 4 + 9,  # of the report: p_lower of each table, and the figures
    "p_lower": 4,
    "figure": 5,  # 3, 4, 5, 7 and 8
    "examples": 2,  # 6 and 9
    "illustrate": 2,  # 1 and 2
    "paper": 1,
}

# configs/selection.yaml: CIFAR-10 with 5,000 images held out, on which every row is certified too; Figures 1 to 5.
HELD_OUT = {
    "fetch": 1,
    "train": SIGMAS * 4,
    "finetune": SIGMAS * 3,
    "sigma": 2 * SIGMAS * SEARCHED["cifar10"],
    "certify_shard": 5 * 2 * SIGMAS * (4 + K * SEARCHED["cifar10"]),
    "merge": 2 * SIGMAS * (4 + K * SEARCHED["cifar10"]),
    "remember_cifar10-held-out": 2 * SIGMAS * SEARCHED["cifar10"],
    **{f"{rule}-held-out": count for rule, count in CELLS.items() if rule.endswith("cifar10")},
    **{rule: WHOLE[rule] for rule in ("table", "comparison", "claims", "per_class", "page", "p_lower", "illustrate", "paper")},
    "picture": 4 + 5,
    "figure": 3,
}

TABLE_2 = {
    "fetch": 2,
    "train": 2 * SIGMAS,
    "finetune": 2 * SIGMAS,
    "sigma": 2 * 2 * SIGMAS,  # both datasets, ds and ds2
    "certify_shard": sum(SHARDS.values()) * SIGMAS * (1 + 2 * K),
    "merge": 2 * SIGMAS * (1 + 2 * K),
    "remember_cifar10": 2 * SIGMAS,
    "remember_imagenet": 2 * SIGMAS,
    "cells_table2_cifar10": 3,
    "cells_table2_imagenet": 3,
    "table": 1,
}


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What Snakemake would run for `paper`, in an empty folder, which it leaves empty."""
    folder = tmp_path_factory.mktemp("paper")
    text = dry("--printshellcmds", "--", "paper", folder=folder, config=PAPER).stdout
    assert [path for path in folder.rglob("*") if ".snakemake" not in path.parts] == []
    return text


def commands(text: str, verb: str) -> list[dict[str, list[str]]]:
    """The flags of each command of a verb that a dry run printed."""
    found = []
    for line in re.findall(rf"ddrs {verb} (.*) > ", text):
        flags: dict[str, list[str]] = {}
        for name, value in re.findall(r"--([a-z0-9-]+) (\S+)", line):
            flags.setdefault(name, []).append(value)
        found.append(flags)
    return found


def test_the_whole_paper_is_planned(paper: str) -> None:
    assert planned(paper) == WHOLE
    assert (sum(WHOLE.values()), WHOLE["train"], WHOLE["finetune"], WHOLE["sigma"], WHOLE["merge"], WHOLE["certify_shard"]) == (
        1259,
        21,
        15,
        48,
        182,
        839,
    )


def test_a_table_is_planned_alone(tmp_path: Path) -> None:
    text = dry("--quiet", "rules", "--", "results/table2.csv", folder=tmp_path, config=PAPER).stdout
    assert planned(text) == TABLE_2
    assert sum(TABLE_2.values()) == 342 and [path.name for path in tmp_path.iterdir()] == [".snakemake"]


def test_every_printed_cell_is_planned_and_no_other(paper: str) -> None:
    rows = {(found["table"][0], Path(found["out-dir"][0]).parts[-2], found["label"][0]): found["radii"][0] for found in commands(paper, "cell")}
    tables = {row: radii for row, radii in rows.items() if not row[0].endswith("_selected")}
    assert len(tables) == sum(ROWS.values()) and {(f"{table}_selected", *rest) for table, *rest in tables} == set(rows) - set(tables)
    for row, radii in tables.items():
        assert [*radii.split(","), "acr"] == list(printed_row(*row)), row


def test_the_jobs_are_the_papers(paper: str) -> None:
    """Section 4: networks, sigmas, epochs, samples, images, MACER's n = 8; all of it reaches the commands."""
    trained = {(*Path(one["out"][0]).parts[2:4], one["sigma"][0]): one for one in commands(paper, "train")}
    nets = {(name, method): one["architecture"][0] for (name, method, _), one in trained.items()}
    assert nets == {(n, m): "resnet50" if n == "imagenet" else "wide_resnet40_2" if m == "yang" else "resnet18" for n in METHODS for m in METHODS[n]}
    for name, methods in METHODS.items():
        for method in methods:
            small = name == "cifar10" and method != "yang"
            assert {one[2] for one in trained if one[:2] == (name, method)} == ({"0.12", "0.25", "0.50"} if small else {"0.25", "0.50", "1.00"})
    assert {one["epochs"][0] for key, one in trained.items() if key[0] == "cifar10"} == {"200"}
    assert set(trained["cifar10", "macer", "0.12"]["loss"]) == {"k=64", "lambda=12", "gamma=8", "beta=16"}
    assert set(trained["cifar10", "smoothadv", "0.50"]["loss"]) == {"epsilon=0.25", "attack_steps=2", "noise_samples=1"}
    assert [trained["imagenet", "smoothadv", sigma]["loss"][0] for sigma in ("0.25", "0.50", "1.00")] == ["epsilon=0.5", "epsilon=1.0", "epsilon=1.0"]
    assert trained["cifar10", "cohen", "0.12"]["branch-epoch"] == ["50"]
    tuned = commands(paper, "finetune")
    assert {(one["epochs"][0], "branch" in one) for one in tuned if "imagenet/cohen" in one["out"][0]} == {("30", False)}
    assert {(one["epochs"][0], "branch" in one) for one in tuned if "cifar10/cohen" in one["out"][0]} == {("200", True)}
    searched = [*tuned, *(one for one in commands(paper, "sigma") if one["strategy"] == ["ascent"])]
    assert {("macer" in one["out"][0], one["samples"][0], one["step-size"][0]) for one in searched} == {(False, "1", "0.0001"), (True, "8", "0.0001")}
    assert {one["objective-class"][0] for one in commands(paper, "sigma")} == {"current"}
    certified = commands(paper, "certify")
    for name in METHODS:
        of = [one for one in certified if f"/{name}/" in one["data"][0]]
        assert {(one["split"][0], int(one["images"][0])) for one in of} == {("test", PRINTED_IMAGES[name])}
        assert PRINTED_IMAGES[name] <= source_of(name).sizes["test"]
    same = {(one["n0"][0], one["n"][0], one["alpha"][0], one["protocol"][0], one["device"][0], one["noise"][0]) for one in certified}
    assert same == {("100", "100000", "0.001", "fixed", "cuda", "lattice")}


def test_nothing_is_held_out_and_half_of_the_test_images_choose(paper: str) -> None:
    assert dict(re.findall(r"ddrs fetch (\w+) .*--validation (\d+)", paper)) == {"cifar10": "0", "imagenet": "0"}
    cells = commands(paper, "cell")
    assert {(one["table"][0].endswith("_selected"), *one.get("choose-on", [])) for one in cells} == {(True, "even"), (False,)}
    assert {(Path(one["out-dir"][0]).parts[-2], one["kind"][0]) for one in cells} == {("cifar10", "cifar10"), ("imagenet", "imagenet")}
    assert not re.search("ddrs .*validation.*tsv", paper)
    drawn = re.findall(r"ddrs distribution .*?((?: --even \w+)+) .*?--pdf results/p_lower_(table\d)", paper)
    assert {table: flags.split()[1::2] for flags, table in drawn} == {
        **{f"table{number}": ["cifar10", "imagenet"] for number in (1, 2, 4)},
        "table3": ["cifar10"],
    }


def test_the_run_with_selection_is_the_same_beside_it(paper: str, tmp_path: Path) -> None:
    """Its models, on 45,000 images, have places of their own, settings of the other's, and the print of CIFAR-10."""
    overlays = ("--configfile", PAPER, PAPER.parent / "selection.yaml")
    text = dry("--printshellcmds", *overlays, "--", "paper", folder=tmp_path, config=None).stdout
    assert planned(text) == HELD_OUT and sum(HELD_OUT.values()) == 1333
    assert re.findall(r"ddrs fetch (\S+) .*--kind (\S+) --validation (\d+)", text) == [("cifar10-held-out", "cifar10", "5000")]
    ours, theirs = (
        {re.sub("cifar10-held-out", "cifar10", line) for line in re.findall("ddrs (?:train|finetune) .*", one) if "imagenet" not in line}
        for one in (text, paper)
    )
    assert ours == theirs and len(ours) == 21
    assert {(one["split"][0], one["images"][0]) for one in commands(text, "certify")} == {("test", "10000"), ("validation", "5000")}
    cells = commands(text, "cell")
    assert {one["kind"][0] for one in cells} == {"cifar10"}
    assert {(one["table"][0].endswith("_selected"), *one.get("choose-on", [])) for one in cells} == {(True, "validation"), (False,)}
    assert {(*Path(one["out-dir"][0]).parts[-3:-1], "validation" in one) for one in cells if "selected" in one["table"][0]} == {
        (f"table{number}_selected", "cifar10-held-out", True) for number in (1, 2, 3, 4)
    }


def test_a_change_of_one_of_the_two_leaves_the_other(tmp_path: Path) -> None:
    """They share their settings by YAML aliases, which must not tie them together."""
    overlay = tmp_path / "longer.yaml"
    overlay.write_text("train: {cifar10: {cohen: {epochs: 300}}}\n")
    models = [f"results/models/{name}/cohen/fs/sigma_0.12.safetensors" for name in ("cifar10", "cifar10-held-out")]
    text = dry("--printshellcmds", "--configfile", PAPER, overlay, "--", *models, folder=tmp_path, config=None).stdout
    assert {Path(one["out"][0]).parts[2]: one["epochs"][0] for one in commands(text, "train")} == {"cifar10": "300", "cifar10-held-out": "200"}


def test_figures_7_and_8_are_the_papers(paper: str) -> None:
    """Figure 7: SmoothAdv-DS2 from 0.12 on CIFAR-10 and SmoothAdv-DS from 0.50 on ImageNet come first. Figure 8: 200 evaluations."""
    drawn = dict(re.findall(r"ddrs figure (.*?) (--kind (?!rows)\S+)", paper))
    (steps,) = [logs for logs, kind in drawn.items() if kind == "--kind steps"]
    assert steps.split()[:10] == [
        *(f"results/memory/cifar10/test/smoothadv/ds2/sigma_0.12.K_{k}.tsv" for k in (0, 100, 300, 900, 1500)),
        "results/certificates/imagenet/test/smoothadv/fs/sigma_0.50.tsv",  # of a DS model K = 0 is row FS
        *(f"results/memory/imagenet/test/smoothadv/ds/sigma_0.50.K_{k}.tsv" for k in (100, 300, 900, 1500)),
    ]
    assert len(set(steps.split())) == 12 * 5
    assert "--kind searches --evaluations 200" in paper

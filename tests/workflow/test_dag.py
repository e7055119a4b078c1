"""The whole DAG, really run once, and what its files promise."""

import csv
import json
import re
from pathlib import Path

import pytest
from running import dry, snakemake

from ddrs.certification.records import LOG_COLUMNS, read_log


def planned(text: str) -> dict[str, int]:
    """Jobs per rule of a dry run."""
    found = re.findall(r"^([\w-]+) +(\d+)$", text, re.M)
    return {name: int(count) for name, count in found if name not in ("total", "job")}


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("table", "method"), [("table1", "cohen"), ("table2", "smoothadv"), ("table3", "macer")])
def test_tables_have_the_paper_rows_and_the_config_radii(tiny: Path, table: str, method: str) -> None:
    found = rows(tiny / f"results/{table}.csv")
    assert list(found[0]) == ["dataset", "method", "train", "certify", "0.00", "0.25", "0.50", "acr"]
    assert [(r["method"], r["train"], r["certify"]) for r in found] == [
        (method, "FS", "FS"),
        (f"{method}-ds", "FS", "DS"),
        (f"{method}-ds2", "DS", "DS"),
    ]
    for row in found:
        assert float(row["0.00"]) >= float(row["0.25"]) >= float(row["0.50"]) >= 0
        assert 0 <= float(row["acr"]) <= 2


def test_the_l1_table_has_two_rows_and_its_own_grid(tiny: Path) -> None:
    """No DS2 row, radii and lambda of `uniform`; searched, certified and remembered with uniform noise."""
    found = rows(tiny / "results/table4.csv")
    assert list(found[0]) == ["dataset", "method", "train", "certify", "0.00", "0.10", "acr"]
    assert [(r["method"], r["train"], r["certify"]) for r in found] == [("yang", "FS", "FS"), ("yang-ds", "FS", "DS")]
    assert "ℓ1 radius" in (tiny / "results/table4.md").read_text() and "ℓ2 radius" in (tiny / "results/table3.md").read_text()
    assert sorted(p.name for p in (tiny / "results/models/mnist5k/yang").rglob("*.safetensors")) == ["sigma_0.50.safetensors"]
    for path in ("certificates/mnist5k/test/yang/fs/sigma_0.50.tsv", "memory/mnist5k/test/yang/ds/sigma_0.50.K_20.tsv"):
        log = read_log(tiny / "results" / path)
        assert log.constant("noise") == "uniform-lattice"
        one = log.table[log.table["predict"] >= 0]
        assert ((one["radius"] - 2 * one["sigma"] * (one["p_lower"] - 0.5)).abs() < 1e-6).all() and (log.radius < log.table["sigma"]).all()


def test_every_table_value_is_its_cell(tiny: Path) -> None:
    for row in rows(tiny / "results/table2.csv"):
        for column in ("0.00", "0.25", "0.50", "acr"):
            cell = json.loads((tiny / f"results/cells/table2/mnist5k/{row['method']}/{column}.json").read_text())
            assert float(row[column]) == pytest.approx(cell["value"], abs=0.005)
            assert cell["verdict"] == "no print"
            assert (cell["K"] is None) == (row["certify"] == "FS")


def test_a_cell_is_recomputed_from_its_logs(tiny: Path) -> None:
    """The table's number, by hand from the raw logs: the best over sigma and K of the share certified at the radius."""
    found = sorted((tiny / "results/memory/mnist5k/test/smoothadv/ds").glob("*.tsv"))
    logs = [read_log(p) for p in found if not p.stem.endswith(".K_4")]  # which is Figure 8's
    assert len(logs) == 4
    best = max((log.table["correct"].astype(bool) & (log.table["radius"] >= 0.25)).mean() for log in logs)
    cell = json.loads((tiny / "results/cells/table2/mnist5k/smoothadv-ds/0.25.json").read_text())
    assert cell["value"] == pytest.approx(100 * best)


def test_selected_cells_are_of_what_the_validation_images_chose(tiny: Path) -> None:
    """By hand from the raw logs of both splits, which have different images and n."""
    places = {split: tiny / f"results/memory/mnist5k/{split}/smoothadv/ds" for split in ("validation", "test")}
    held_out = {path.name: read_log(path) for path in sorted(places["validation"].glob("*.tsv"))}
    assert {(len(log.table), log.constant("n_max")) for log in held_out.values()} == {(2, 100)}
    cell = json.loads((tiny / "results/cells/table2_selected/mnist5k/smoothadv-ds/acr.json").read_text())
    chosen = held_out[f"sigma_{float(cell['sigma0']):.2f}.K_{cell['K']}.tsv"]
    scores = {name: (log.radius * log.correct).mean() for name, log in held_out.items()}
    assert (chosen.radius * chosen.correct).mean() == max(scores.values()) == pytest.approx(cell["acr on validation"], abs=1e-6)
    log = read_log(places["test"] / Path(chosen.name).name)
    assert cell["value"] == pytest.approx((log.radius * log.correct).mean(), abs=1e-6) and cell["images"] == 4


def test_comparison_claims_and_classes_cover_the_tables(tiny: Path) -> None:
    compared = rows(tiny / "results/table2_comparison.csv")
    assert len(compared) == 2 * 3 * 4 and {row["verdict"] for row in compared} == {"no print"}
    assert {row["choice"] for row in compared} == {"test", "validation"}
    claimed = rows(tiny / "results/claims.csv")
    assert {row["verdict"] for row in claimed} == {"not comparable: mnist5k, not cifar10", "not comparable: mnist5k, not imagenet"}
    assert sum(row["consistent"] == "no" for row in claimed) == 3
    classes = rows(tiny / "results/per_class_table4.csv")
    assert {row["method"] for row in classes} == {"yang", "yang-ds"} and sum(int(row["images"]) for row in classes) == 8
    selected = rows(tiny / "results/table3_selected.csv")
    assert [row["method"] for row in selected] == ["macer", "macer-ds", "macer-ds2"]
    assert "chosen on 2 validation images at n = 100" in (tiny / "results/table3_selected.md").read_text()


def test_logs_are_those_of_the_config(tiny: Path) -> None:
    log = read_log(tiny / "results/certificates/mnist5k/test/cohen/ds2/sigma_0.25.K_20.tsv")
    assert tuple(log.table.columns) == LOG_COLUMNS
    assert log.table["idx"].tolist() == [0, 125, 250, 375]
    assert (log.constant("n"), log.constant("method"), log.constant("K"), log.constant("sigma0")) == (200, "cohen-ds2", "20", 0.25)
    assert log.table["sigma"].nunique() == 4  # data-dependent
    fixed = read_log(tiny / "results/certificates/mnist5k/test/cohen/fs/sigma_0.50.tsv")
    assert set(fixed.table["sigma"]) == {0.5}


def test_memory_pass_reports_its_counts_even_when_nothing_changed(tiny: Path) -> None:
    text = (tiny / "logs/remember/mnist5k/test/cohen/ds/sigma_0.25.log").read_text()
    assert re.search(r"sigma_0\.25\.K_5\.tsv: 4 entries: \d kept, \d adopted, \d shrunk, 0 repeated", text)


def test_figures_are_pictures(tiny: Path) -> None:
    for name in ("figure3", "figure4", "figure5", *(f"p_lower_table{number}" for number in (1, 2, 3, 4))):
        assert (tiny / f"results/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tiny / f"results/{name}.pdf").read_bytes().startswith(b"%PDF")


def test_times_and_provenance_stay_out_of_results(tiny: Path) -> None:
    facts = json.loads((tiny / "logs/certify/mnist5k/test/cohen/fs/sigma_0.25.json").read_text())
    assert facts["settings"]["n"] == 200 and facts["seconds"] > 0
    assert len((tiny / "logs/certify/mnist5k/test/cohen/fs/sigma_0.25.times.tsv").read_text().splitlines()) == 5
    assert all("cells" in str(path) for path in (tiny / "results").rglob("*.json"))
    assert not list((tiny / "scratch").iterdir())


def test_a_second_run_has_nothing_to_do(tiny: Path) -> None:
    done = dry("paper", folder=tiny)
    assert "Nothing to be done" in done.stdout + done.stderr


def test_a_fresh_clone_runs_the_whole_chain(tmp_path: Path) -> None:
    """Never "nothing to be done" before anything ran: with the shipped config, every job of Table 2 is planned."""
    text = dry("--quiet", "rules", "--", "results/table2.csv", folder=tmp_path, config=None).stdout
    assert planned(text) == {
        "fetch": 1,
        "train": 3,
        "finetune": 3,
        "sigma": 6,
        "certify": 21,
        "remember_mnist5k": 6,
        "cells_table2_mnist5k": 3,
        "table": 1,
    }


def test_a_table_without_a_ds2_row_finetunes_nothing(tmp_path: Path) -> None:
    text = dry("--quiet", "rules", "--", "results/table4.csv", folder=tmp_path, config=None).stdout
    assert planned(text) == {
        "fetch": 1,
        "train": 3,
        "sigma": 3,
        "certify": 12,
        "remember_mnist5k": 3,
        "cells_table4_mnist5k": 2,
        "table": 1,
    }


def test_the_stages_are_all_that_the_tables_stand_on(tmp_path: Path) -> None:
    """Targets `models` and `certificates` make no row that no table has."""
    for target, rule, count in (("models", "train", 12), ("models", "finetune", 9), ("certificates", "remember_mnist5k", 42)):
        assert planned(dry("--quiet", "rules", "--", target, folder=tmp_path, config=None).stdout)[rule] == count


def test_a_cell_of_no_row_of_its_table_is_no_target(tmp_path: Path) -> None:
    for cell in ("table4/mnist5k/yang-ds2/0.50", "table4/mnist5k/yang/2.25", "table1/mnist5k/macer/0.50"):
        done = dry(f"results/cells/{cell}.json", folder=tmp_path, config=None, check=False)
        assert done.returncode != 0 and "No rule to produce" in done.stderr + done.stdout


def test_one_cell_is_a_target_of_its_own(tmp_path: Path) -> None:
    text = dry("--quiet", "rules", "--", "results/cells/table2/mnist5k/smoothadv/0.50.json", folder=tmp_path, config=None).stdout
    assert planned(text) == {"fetch": 1, "train": 3, "certify": 3, "cells_table2_mnist5k": 1}
    cell = "results/cells/table2_selected/mnist5k/smoothadv/0.50.json"
    text = dry("--quiet", "rules", "--", cell, folder=tmp_path, config=None).stdout
    assert planned(text) == {"fetch": 1, "train": 3, "certify": 6, "cells_table2_selected_mnist5k": 1}


def test_all_tables_are_one_target(tmp_path: Path) -> None:
    text = dry("--quiet", "rules", "--", "tables", folder=tmp_path, config=None).stdout
    found = planned(text)
    assert {name: found[name] for name in ("table", "comparison", "claims", "per_class", "p_lower")} == {
        "table": 8,
        "comparison": 4,
        "claims": 1,
        "per_class": 4,
        "p_lower": 4,
    }
    assert "figure" not in found and sum(found[name] for name in CELLS) == 22


CELLS = {f"cells_table{number}{form}_mnist5k" for number in (1, 2, 3, 4) for form in ("", "_selected")}


def test_report_opens_with_what_was_reproduced(tiny: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    snakemake("--report", report, "paper", folder=tiny)
    html = report.read_text()
    assert "Table 1: cohen at sigma 0.25, 0.50. Models: small_cnn, 2 epochs (the paper" in html and "optimistic" in html
    assert '"results/pages/figure3.html"' in html and '"results/pages/p_lower_table1.html"' in html
    assert '"results/pages/table2.html"' in html, "tables are shown, not downloads"
    assert "Memory pass of smoothadv-ds: 4 passes of 4 entries" in (tiny / "results/pages/table2.html").read_text()

"""The paper's sentences against its own tables and against cells of ours."""

import csv
from pathlib import Path

import pytest

from ddrs.results.claims import claims, of_paper, write_claims
from ddrs.results.row_cells import write_cells
from ddrs.rows import TABLES
from tests.unit.helpers import write_log

pytestmark = pytest.mark.usefixtures("invented_radii")  # bounds are computed again in test_certify_log.py and tests/adversarial

AT_PRINT = {"n": 100_000, "n_max": 100_000}


def row(folder: Path, label: str, right: int, dataset: str = "cifar10", table: str = "table1", images: int = 1000, **more: object) -> list[Path]:
    """The cells 0.50 and acr of a row with `right` images at 0.75, in both forms; on the validation images that choose, none is right."""
    own = {"method": label, "dataset": dataset, **AT_PRINT, **({"memory": "kept", "K": 100} if "-" in label else {}), **more}
    paths = []
    log = write_log(folder / dataset / "test" / f"{label}.tsv", [(i, 1, 1 if i < right else 2, 0.75) for i in range(images)], **own)
    held_out = write_log(folder / dataset / "validation" / f"{label}.tsv", [(0, 1, 2, 0.75)], split="validation", **own)
    for name, validation in ((table, []), (f"{table}_selected", [held_out])):
        out = folder / name / dataset / label
        write_cells([log], name, label, [0.5], out, 0, validation)
        paths += sorted(out.iterdir())
    return paths


def written(cells: list[Path], folder: Path) -> dict[str, dict[str, str]]:
    write_claims(cells, folder / "claims.csv", folder / "claims.md")
    with open(folder / "claims.csv", encoding="utf-8") as file:
        return {line["id"]: line for line in csv.DictReader(file)}


def test_every_claim_names_rows_of_the_print():
    found = claims()
    assert len({claim.id for claim in found}) == len(found) == 35
    for claim in found:
        assert claim.table in (*TABLES, "any") and claim.rows(claim.label) and (not claim.minus or claim.rows(claim.minus)), claim.id


def test_which_claims_the_papers_own_tables_contradict():
    """By hand: 52.8 - 46.7 = 6.1 and 58.8 - 54.6 = 4.2 over the strongest baselines, 52.7 - 43.6 = 9.1 for MACER-DS2."""
    wrong = {claim.id: round(of_paper(claim)[0], 3) for claim in claims() if not of_paper(claim)[1]}
    assert wrong == {"abstract-cifar10": 6.1, "abstract-imagenet": 4.2, "macer-ds2-cifar10-0.50": 9.1}
    given = {claim.id: of_paper(claim)[0] for claim in claims()}
    assert given["introduction-ds2-cifar10"] == 68.3 and given["introduction-ds2-imagenet"] == 64.2
    assert given["cohen-ds-cifar10-acr"] == pytest.approx(0.193)


def test_a_gain_of_ours_is_judged(tmp_path: Path):
    """Cohen-DS over Cohen at 0.5: the paper 47.8 - 40.1 = 7.7, ours 48 - 40 = 8.0 or 60 - 40 = 20 of 1,000 images."""
    near = written([*row(tmp_path / "a", "cohen", 400), *row(tmp_path / "a", "cohen-ds", 480)], tmp_path)["cohen-ds-cifar10-0.50"]
    assert (near["claimed"], near["paper_tables"], near["consistent"], near["ours"], near["ours_selected"]) == ("7.7", "7.70", "yes", "8.00", "8.00")
    assert near["verdict"] == "within" and float(near["difference_low"]) < 0.3 < float(near["difference_high"])
    far = written([*row(tmp_path / "b", "cohen", 400), *row(tmp_path / "b", "cohen-ds", 600)], tmp_path)["cohen-ds-cifar10-0.50"]
    assert (far["ours"], far["verdict"]) == ("20.00", "above")


def test_an_acr_that_the_print_cannot_have_is_no_yardstick(tmp_path: Path):
    found = written([*row(tmp_path, "cohen", 400), *row(tmp_path, "cohen-ds", 480)], tmp_path)["cohen-ds-cifar10-acr"]
    assert found["consistent"] == "yes" and found["verdict"].startswith("print inconsistent: ACR 0.784") and found["ours"] == "0.060"


def test_what_our_tables_lack_is_said(tmp_path: Path):
    found = written([*row(tmp_path, "cohen", 400), *row(tmp_path, "cohen-ds", 480)], tmp_path)
    assert found["macer-ds-cifar10-0.50"]["verdict"] == "not comparable: table3 has no column 0.50 for cifar10 macer-ds"
    assert found["cohen-ds-cifar10-0.75"]["verdict"] == "not comparable: table1 has no column 0.75 for cifar10 cohen-ds"
    assert found["macer-ds2-cifar10-0.50"]["verdict"] == "print inconsistent: the paper's tables give 9.1"
    imagenet = found["cohen-ds-imagenet-0.50"]
    assert (imagenet["our_dataset"], imagenet["ours"], imagenet["verdict"]) == ("cifar10", "8.00", "not comparable: cifar10, not imagenet")


def test_the_best_of_several_tables(tmp_path: Path):
    """Over tables 1 to 3 the strongest of each kind: 60 - 50, whatever their methods."""
    cells = []
    for table, method, fixed, own in (("table1", "cohen", 300, 600), ("table2", "smoothadv", 500, 550), ("table3", "macer", 400, 450)):
        cells += row(tmp_path, method, fixed, "mnist5k", table) + row(tmp_path, f"{method}-ds2", own, "mnist5k", table)
    found = written(cells, tmp_path)
    assert found["abstract-cifar10"]["ours"] == "10.00" and found["abstract-cifar10"]["verdict"] == "not comparable: mnist5k, not cifar10"
    assert found["yang-ds-cifar10-0.50"]["ours"] == ""


def test_tables_of_two_norms_give_claims(tmp_path: Path):
    """Table 4's noise is uniform, and its cells stand beside the others'."""
    cells = [*row(tmp_path, "cohen", 400), *row(tmp_path, "yang", 750, table="table4", noise="uniform")]
    cells += row(tmp_path, "yang-ds", 820, table="table4", noise="uniform")
    found = written(cells, tmp_path)["yang-ds-cifar10-0.50"]
    assert (found["paper_tables"], found["ours"], found["verdict"]) == ("7.00", "7.00", "within")


def test_another_protocol_is_not_compared(tmp_path: Path):
    cells = [*row(tmp_path, "cohen", 400, n=2500, n_max=2500), *row(tmp_path, "cohen-ds", 480, n=2500, n_max=2500)]
    assert written(cells, tmp_path)["cohen-ds-cifar10-0.50"]["verdict"] == "not comparable: n_max = 2500, where the print has 100000"


def test_the_markdown_explains_itself(tmp_path: Path):
    written([*row(tmp_path, "cohen", 400), *row(tmp_path, "cohen-ds", 480)], tmp_path)
    text = (tmp_path / "claims.md").read_text()
    for words in ("35 sentences", "3 of them do not follow", "variance of training is not included", "MACER-DS2 over MACER by 8.67 % at 0.5"):
        assert words in text
    assert "nan" not in text.lower()

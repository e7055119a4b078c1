"""A log says all that its bounds follow from: every column read back, and the bounds computed again from it."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import beta

from ddrs.certification.records import LOG_COLUMNS, read_log
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.data.splits import as_float, load_split
from ddrs.statistics.boundaries import look_schedule
from tests.unit.helpers import certify_files

SIGMA, ALPHA, N = 1.0, 0.01, 1000
RUNS = {
    "joint": {"bound": "joint", "precision": "float32", "noise": "lattice"},
    "two-stage": {"protocol": "two-stage", "noise": "gaussian"},
    "sequential": {"protocol": "sequential", "radii": [0.0, 0.1, 0.2, 0.25, 0.4], "spending": "log", "noise": "lattice"},
}


@pytest.fixture(scope="module")
def tables(trained: Path, small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    folder, found = tmp_path_factory.mktemp("logs"), {}
    for name, settings in RUNS.items():
        sampling = ImageCertificateSettings(**{"n0": 50, "n": N, "alpha": ALPHA, **settings})  # type: ignore[arg-type]
        found[name] = read_log(
            certify_files(trained, small_mnist, folder, settings=sampling, sigma=SIGMA, images=15, seed=3, name=f"{name}.tsv")
        ).table
    return found


def test_the_precision_that_ran_is_in_the_log(trained: Path, small_mnist: Path, tmp_path: Path):
    """It is part of what makes a log another one, as the certificate is for the function that ran."""
    logs = [
        read_log(
            certify_files(
                trained, small_mnist, tmp_path, settings=ImageCertificateSettings(n0=20, n=300, precision=precision), name=f"{precision}.tsv"
            )
        )
        for precision in ("float32", "bfloat16")
    ]
    assert [log.constant("precision") for log in logs] == ["float32", "bfloat16"]
    assert logs[0].constant("digest") != logs[1].constant("digest")
    assert np.abs(logs[0].table["n_top"] - logs[1].table["n_top"]).max() < 30 and logs[1].table["correct"].sum() > 0


def lower(k: pd.Series, n: pd.Series, alpha: float) -> np.ndarray:
    return np.where(k > 0, beta.ppf(alpha, k, n - k + 1), 0.0)


@pytest.mark.parametrize("name", RUNS)
def test_every_column_reads_back(name: str, tables: dict[str, pd.DataFrame], small_mnist: Path):
    table, split = tables[name], load_split(small_mnist, "test")
    assert tuple(table.columns) == LOG_COLUMNS and table["idx"].tolist() == list(range(0, 30, 2))
    assert table["label"].tolist() == split.labels[table["idx"]].tolist()
    assert (table["correct"] == (table["predict"] == table["label"])).all() and 0 < table["correct"].sum() < 15
    constant = {
        "sigma": SIGMA,
        "n0": 50,
        "n_max": N,
        "alpha": ALPHA,
        "protocol": RUNS[name].get("protocol", "fixed"),
        "bound": RUNS[name].get("bound", "binary"),
        "spending": RUNS[name].get("spending", ""),
        "looks": "100*1.05^j, steps >= 25" if name == "sequential" else "",
        "noise": RUNS[name]["noise"],
        "precision": "float32",
        "dataset": "mnist5k",
        "split": "test",
        "method": "cohen",
        "sigma0": SIGMA,
        "K": "",
        "seed": 3,
    }
    assert {column: table[column].iloc[0] for column in constant} == constant
    assert all(table[column].nunique() == 1 for column in (*constant, "digest")) and table["digest"].str.fullmatch("[0-9a-f]{16}").all()
    assert (table["n_top"] <= table["n"]).all() and (table["n"] <= N).all()
    for column, run in {"n_second": "joint", "p_upper": "joint", "z": "sequential"}.items():
        assert (table[column] != "").any() == (name == run), column
    assert (table["radius"] > 0).any() and (table["predict"] == -1).any(), "some are certified and some abstain"


def test_the_bound_of_a_joint_log_follows_from_its_columns(tables: dict[str, pd.DataFrame]):
    table = tables["joint"]
    second = table["n_second"].astype(int)
    p_a = lower(table["n_top"], table["n"], ALPHA / 2)
    p_b = np.minimum(1 - lower(table["n"] - second, table["n"], ALPHA / 2), 1 - p_a)
    assert (table["n"] == N).all() and (table["n_top"] + second <= N).all() and (table["n_top"] + second < N).any()
    np.testing.assert_allclose(table["p_lower"], p_a, atol=2e-12)
    np.testing.assert_allclose(table["p_upper"].astype(float), p_b, atol=2e-12)
    assert (table["p_lower"] <= p_a + 1e-15).all() and (table["p_upper"].astype(float) >= p_b - 1e-15).all(), "printed to the safe side"
    radius = np.where(p_a > p_b, SIGMA / 2 * (ndtri(p_a) - ndtri(p_b)), 0.0)
    np.testing.assert_allclose(table["radius"], radius, atol=1.1e-6)
    assert (table["radius"] <= radius + 1e-12).all() and ((table["predict"] == -1) == (p_a <= p_b)).all()


def test_the_bound_of_a_two_stage_log_follows_from_its_columns(tables: dict[str, pd.DataFrame]):
    table = tables["two-stage"]
    p_a = lower(table["n_top"], table["n"], ALPHA)
    assert table["n"].isin(look_schedule(N)).all() and table["n"].nunique() > 1
    np.testing.assert_allclose(table["p_lower"], p_a, atol=2e-12)
    assert (table["p_lower"] <= p_a).all()
    radius = np.where(p_a > 0.5, np.maximum(SIGMA * ndtri(p_a) - table["off_grid"], 0.0), 0.0)
    np.testing.assert_allclose(table["radius"], radius, atol=1.1e-6)
    assert (table["radius"] <= radius + 1e-12).all() and ((table["predict"] == -1) == (radius <= 0)).all()


def test_how_far_each_image_is_off_the_grid_is_in_its_log(tables: dict[str, pd.DataFrame], small_mnist: Path):
    """Of Gaussian noise at least the exact distance to multiples of sigma / 4096, printed to the safe side; on the pixel grid 0."""
    split = load_split(small_mnist, "test")
    assert (tables["joint"]["off_grid"] == 0).all() and (tables["sequential"]["off_grid"] == 0).all()
    step = Fraction(SIGMA) / 4096
    for idx, found in zip(tables["two-stage"]["idx"], tables["two-stage"]["off_grid"], strict=True):
        values = [Fraction(float(value)) for value in as_float(split.images[idx]).ravel()]
        exact = sum((value - round(value / step) * step) ** 2 for value in values)
        assert exact <= Fraction(float(found)) ** 2 <= exact * (1 + Fraction(1, 10**6))


def test_the_claim_of_a_sequential_log_follows_from_its_columns(tables: dict[str, pd.DataFrame]):
    """z is on the grid of the radii that were asked for, radius and p_lower are its own; an abstention has neither."""
    table = tables["sequential"]
    claimed = table[table["z"] != ""]
    grid = {-(-100 * Fraction(radius) // Fraction(SIGMA)) for radius in RUNS["sequential"]["radii"]}  # type: ignore[union-attr]
    z = np.array([float(one) for one in claimed["z"]])
    assert {round(100 * one) for one in z} <= grid and len(set(z)) > 1 and claimed["z"].str.fullmatch(r"\d\.\d\d").all()
    np.testing.assert_allclose(claimed["radius"], SIGMA * z, atol=1e-6)
    assert (claimed["radius"] <= SIGMA * z + 1e-15).all() and (claimed["predict"] >= 0).all()
    np.testing.assert_allclose(claimed["p_lower"], ndtr(z), atol=1e-12)
    assert (claimed["p_lower"] <= ndtr(z)).all()
    rest = table[table["z"] == ""]
    assert len(rest) and (rest["predict"] == -1).all() and (rest["radius"] == 0).all() and (rest["p_lower"] == 0).all()
    assert table["n"].isin(look_schedule(N)).all() and table["n"].nunique() > 2

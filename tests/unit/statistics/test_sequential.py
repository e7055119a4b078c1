"""The group-sequential test: reference boundaries, the exact level, the cache, and what is refused."""

import csv
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import binom

from ddrs.errors import DdrsError
from ddrs.statistics import boundaries as statistics_boundaries
from ddrs.statistics.boundaries import Boundaries, Spending, boundaries, efficacy_boundary, futility_boundary, look_schedule
from ddrs.statistics.bounds import lower_confidence_bound
from ddrs.statistics.sequential import GroupSequentialTest, needed, radius_of

with open(Path(__file__).parents[2] / "data" / "sequential_boundaries.csv") as file:
    REFERENCE = [
        (key, list(rows)) for key, rows in groupby(csv.DictReader(file), lambda row: (row["p0"], row["alpha"], row["n_max"], row["spending"]))
    ]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Boundaries:
    """Boundaries for 2,000 samples."""
    return boundaries(1e-3, 2000, spending="sqrt", law="gaussian", cache=tmp_path_factory.mktemp("cache"))


def test_looks_grow_by_the_ratio_and_end_at_n_max():
    assert look_schedule(160).tolist() == [100, 125, 150, 160]
    assert look_schedule(150).tolist() == [100, 125, 150]
    assert look_schedule(600).tolist()[-4:] == [525, 551, 579, 600], "from 500 on 5 % are more than 25"
    assert look_schedule(100).tolist() == [100]
    assert look_schedule(7).tolist() == [7]
    assert look_schedule(5, first=1, ratio=1.1, step=1).tolist() == [1, 2, 3, 4, 5]
    assert look_schedule(100_000).dtype == np.int64


@pytest.mark.parametrize(("key", "rows"), REFERENCE)
def test_agrees_with_reference_boundaries(key: tuple[str, str, str, str], rows: list[dict[str, str]]):
    """Vote for vote. Where the file has none, no path that was not rejected before reaches the boundary."""
    looks = np.array([int(row["look"]) for row in rows])
    found = efficacy_boundary(float(key[0]), float(key[1]), looks, key[3]).tolist()
    most, before = 0, 0
    for row, look, boundary in zip(rows, looks.tolist(), found, strict=True):
        most, before = most + look - before, look
        if row["certify_at"]:
            assert boundary == int(row["certify_at"])
        else:
            assert boundary > most
        most = min(most, boundary - 1)


def untrimmed(p0: float, alpha: float, looks: np.ndarray, targets: np.ndarray) -> list[int]:
    """The same boundaries from whole binomial laws: the smallest count whose tail, with all that was spent, is within the target."""
    alive, spent, boundary = np.ones(1), 0.0, []
    for target, step in zip(targets, np.diff(looks, prepend=0), strict=True):
        alive = np.convolve(alive, binom.pmf(np.arange(step + 1), step, p0))
        tails = np.append(np.cumsum(alive[::-1])[::-1], 0.0)
        least = int(np.argmax(spent + tails <= target))
        if least == len(alive):  # nothing to spend: the trimmed computation does not look at counts of no probability
            boundary.append(int(np.max(np.flatnonzero(alive))) + 1)
            continue
        spent += tails[least]
        alive[least:] = 0.0
        boundary.append(least)
    return boundary


@pytest.mark.parametrize("spending", ["sqrt", "log"])
@pytest.mark.parametrize("p0", [0.5, 0.6, 0.9, 0.99, 0.998])
def test_trimming_moves_no_boundary(p0: float, spending: Spending):
    looks = look_schedule(3000)
    shares = {"sqrt": np.sqrt(looks / 3000), "log": np.log(looks / 100) / np.log(30)}
    assert efficacy_boundary(p0, 0.01, looks, spending).tolist() == untrimmed(p0, 0.01, looks, 0.01 * shares[spending])


def test_a_reserve_is_kept_for_rounding():
    """Ten votes of ten have probability 2^-10 at p0 = 1/2; they reject only if alpha is larger by more than the reserve."""
    looks = np.array([10])
    assert efficacy_boundary(0.5, 2**-10 * (1 + 2e-8), looks, "sqrt").tolist() == [11]
    assert efficacy_boundary(0.5, 2**-10 * (1 + 5e-8), looks, "sqrt").tolist() == [10]


@pytest.mark.parametrize("p0", [0.5, 0.8413, 0.9772])
def test_futility_is_the_mirrored_test(p0: float):
    """Exact: with p = p0, votes fall to the boundary with probability at most beta, and nearly so."""
    looks = look_schedule(3000)
    lower, alive, given_up = futility_boundary(p0, 0.01, looks, "sqrt"), np.ones(1), 0.0
    for step, at in zip(np.diff(looks, prepend=0), lower.tolist(), strict=True):
        alive = np.convolve(alive, binom.pmf(np.arange(step + 1), step, p0))
        given_up += alive[: at + 1].sum()
        alive[: at + 1] = 0.0
    assert 0.008 < given_up <= 0.01


def test_what_the_last_look_would_claim_is_rarely_given_up(small: Boundaries):
    """Exact: where the last look alone claims z with probability 0.95, z is given up with probability at most beta = 0.05, and nearly so.

    But for the vote by which the table is made monotone. At p0 itself, where next to nothing could be claimed, nearly everything is given up."""
    for index in (0, 100, 200):
        q = float(lower_confidence_bound(int(small.certify_at[index, -1]), 2000, 0.95))
        for p, least, most in ((q, 0.03, 0.051), (float(small.p0[index]), 0.9, 1.0)):
            alive, given_up = np.ones(1), 0.0
            for step, at in zip(np.diff(small.looks, prepend=0)[:-1], small.give_up_at[index, :-1].tolist(), strict=True):
                alive = np.convolve(alive, binom.pmf(np.arange(step + 1), step, p))
                given_up += alive[: at + 1].sum()
                alive[: at + 1] = 0.0
            assert least < given_up <= most


@pytest.mark.parametrize("law", ["gaussian", "uniform"])
def test_grid_of_nulls(law: statistics_boundaries.Law, tmp_path: Path):
    found = boundaries(1e-3, 2000, spending="log", law=law, cache=tmp_path)
    assert found.z.tolist() == [i / 100 for i in range(len(found.z))]
    assert np.array_equal(found.p0, ndtr(found.z) if law == "gaussian" else 0.5 + found.z / 2)
    assert found.looks.tolist() == look_schedule(2000).tolist()
    assert found.certify_at.shape == found.give_up_at.shape == (len(found.z), len(found.looks))
    assert np.all(np.diff(found.certify_at, axis=0) >= 0) and np.all(np.diff(found.give_up_at, axis=0) >= 0)
    assert np.all(found.give_up_at < found.certify_at)
    beyond = found.z[-1] + 0.01
    assert found.certify_at[-1, -1] <= 2000 and found.p0[-1] ** 2000 <= 1e-3 < (ndtr(beyond) if law == "gaussian" else 0.5 + beyond / 2) ** 2000


def test_shipped_boundaries_reject_less_than_their_own_null_allows(small: Boundaries):
    for index in range(0, len(small.z), 20):
        raw = efficacy_boundary(float(small.p0[index]), 1e-3, small.looks, "sqrt")
        assert np.all(small.certify_at[index] >= raw) and np.all(small.certify_at[index] - raw <= 2)


def test_uniform_grid_ends_below_one(tmp_path: Path):
    assert boundaries(1e-3, 100_000, law="uniform", cache=tmp_path).z[-1] == 0.99


def test_all_votes_claim_the_largest_null(small: Boundaries):
    test = GroupSequentialTest(small, range_of(small))
    while not test.update(test.next_look()):
        assert test.claimed is None or test.claimed < len(small.z) - 1
    assert test.claimed == len(small.z) - 1


def test_half_the_votes_abstain(small: Boundaries):
    test = GroupSequentialTest(small, [0, 50, 100])
    while not test.update(test.next_look() // 2):
        pass
    assert test.claimed is None
    assert test.decided
    with pytest.raises(DdrsError, match="decided, there is no next look"):
        test.next_look()


def test_claims_keep_and_go_on(small: Boundaries):
    """Votes that claim 0.5 and no more at the first look leave larger nulls open; misses from then on take nothing back."""
    votes = int(small.certify_at[50, 0])
    test = GroupSequentialTest(small, [0, 50, 100])
    assert small.give_up_at[100, 0] < votes < small.certify_at[100, 0]
    assert not test.update(votes)
    assert test.claimed == 50
    assert test.update(votes), "1.0 is given up, so everything is decided"
    assert test.claimed == 50


def test_giving_up_closes_larger_nulls_only(small: Boundaries):
    votes = int(small.give_up_at[150, 0])
    test = GroupSequentialTest(small, [0, 100, 150, 200])
    assert not test.update(votes)
    for _ in small.looks[1:]:
        before = test.next_look()
        if test.update(votes := votes + before - int(small.looks[np.searchsorted(small.looks, before) - 1])):
            break
    assert test.claimed == 100, "only votes from then on: 1.0 can still be claimed, 1.5 and 2.0 cannot"


def test_a_null_that_was_given_up_is_not_claimed_later(small: Boundaries):
    """Neighbouring nulls, one given up and one not: votes that then reach the boundaries of both at one look claim the smaller one."""
    votes = int(small.give_up_at[150, 0])
    kept = int(np.searchsorted(small.give_up_at[:, 0], votes)) - 1
    test = GroupSequentialTest(small, [0, kept, kept + 1])
    test.update(votes)
    look = 0
    while not test.decided:
        look += 1
        votes += int(small.looks[look] - small.looks[look - 1])
        test.update(votes)
    assert votes >= small.certify_at[kept + 1, look]
    assert test.claimed == kept


def range_of(found: Boundaries) -> np.ndarray:
    return np.arange(len(found.z))


@pytest.mark.parametrize(
    ("tested", "message"),
    [([], "increasing"), ([0.0, 1.0], "increasing"), ([0, 2, 2], "increasing"), ([1, 2], "start with 0"), ([0, 10**6], "end below")],
)
def test_bad_tested_nulls(small: Boundaries, tested: list, message: str):
    with pytest.raises(DdrsError, match=message):
        GroupSequentialTest(small, tested)


def test_impossible_votes(small: Boundaries):
    test = GroupSequentialTest(small, [0])
    for votes in (-1, 101):
        with pytest.raises(DdrsError, match=f"{votes} votes of 100 samples after 0 of 0"):
            test.update(votes)
    test.update(55)
    for votes in (54, 81):
        with pytest.raises(DdrsError, match=f"{votes} votes of 125 samples after 55 of 100"):
            test.update(votes)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"alpha": 0.0}, "alpha 0.0: must be a number between 0 and 1"),
        ({"beta": 1.0}, "beta 1.0: must be a number between 0 and 1"),
        ({"n_max": 9}, "at least 10 is needed"),
        ({"n_max": 10, "alpha": 2**-10 * (1 + 5e-9)}, "n = 10 is too small to certify anything"),
        ({"n_max": 10**7 + 1}, "more than 10000000"),
        ({"spending": "pocock"}, "spending 'pocock': unknown; known are sqrt, log"),
        ({"law": "laplace"}, "law 'laplace': unknown; known are gaussian, uniform"),
    ],
)
def test_bad_arguments(changed: dict, message: str, tmp_path: Path):
    with pytest.raises(DdrsError, match=message):
        boundaries(**{"alpha": 1e-3, "n_max": 1000, "cache": tmp_path, **changed})
    assert not list(tmp_path.iterdir())


def test_bad_looks_and_p0():
    for looks in ([], [0, 5], [5, 5], [1.5], [[5]]):
        with pytest.raises(DdrsError, match="looks: must be increasing integers"):
            efficacy_boundary(0.5, 0.01, np.array(looks), "sqrt")
    with pytest.raises(DdrsError, match=r"p0 = 1\.0"):
        efficacy_boundary(1.0, 0.01, np.array([50]), "sqrt")
    with pytest.raises(DdrsError, match="spending"):
        efficacy_boundary(0.5, 0.01, np.array([50]), "linear")
    for arguments in ((0,), (10, 0), (10, 5, 1.0), (10, 5, float("inf")), (10, 5, 1.1, 0)):
        with pytest.raises(DdrsError, match="looks: "):
            look_schedule(*arguments)


def test_bad_radii_and_sigma():
    for radii in ([-0.1], [0.5, 0.5], [0.5, 0.25], [float("nan")], [float("inf")]):
        with pytest.raises(DdrsError, match=r"radii .*: must be increasing, finite and >= 0"):
            needed(radii, 0.5, 100)
    for sigma in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DdrsError, match="sigma"):
            needed([0.5], sigma, 100)
        with pytest.raises(DdrsError, match="sigma"):
            radius_of(1, sigma)


def test_needed_is_exact_at_grid_points():
    assert needed([0.0, 0.25, 0.5, 2.0], 0.5, 382).tolist() == [0, 50, 100, 382]
    assert needed([0.12], float(np.float32(0.12)), 382).tolist() == [101], "float32's 0.12 is below 0.12"
    assert needed([], 0.5, 382).tolist() == []
    assert radius_of(100, 0.5) == 0.5
    assert radius_of(0, 0.5) == 0.0


def no_computing(*arguments: object) -> np.ndarray:
    raise AssertionError("computed again")


def the_file(cache: Path, alpha: float = 1e-3) -> Path:
    """The only file of a cache, which holds the boundaries for 200 samples."""
    boundaries(alpha, 200, cache=cache)
    (path,) = cache.iterdir()
    return path


def test_importing_it_is_light():
    """It stands behind the command line, which must start fast."""
    code = "import sys, ddrs.statistics.boundaries; print(sorted({'torch', 'pandas', 'scipy.stats', 'scipy.signal'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_cache_gives_back_what_was_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    the_file(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    computed = boundaries(1e-3, 200, cache=tmp_path / "one")
    monkeypatch.setattr(statistics_boundaries, "efficacy_boundary", no_computing)
    read = boundaries(1e-3, 200, cache=tmp_path / "two")
    assert read.key == computed.key and read is not computed
    for name in ("looks", "z", "p0", "certify_at", "give_up_at"):
        assert np.array_equal(getattr(read, name), getattr(computed, name)) and getattr(read, name).dtype == getattr(computed, name).dtype
        with pytest.raises(ValueError, match="read-only"):
            getattr(read, name)[0] = 0
    assert boundaries(1e-3, 200, cache=tmp_path / "two") is read, "kept in the process, too"


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DDRS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    boundaries(1e-3, 101)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    boundaries(1e-3, 101)
    monkeypatch.setenv("DDRS_CACHE", str(tmp_path / "own"))
    boundaries(1e-3, 101)
    for folder in ("home/.cache/ddrs", "xdg/ddrs", "own"):
        assert len(list((tmp_path / folder).iterdir())) == 1


def test_a_new_algorithm_leaves_old_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    the_file(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    monkeypatch.setattr(statistics_boundaries, "ALGORITHM", "another")
    boundaries(1e-3, 200, cache=tmp_path / "two")
    assert len(list((tmp_path / "two").iterdir())) == 2


def recomputed(path: Path, whole: Path, message: str) -> None:
    """The file is told of in one line that names it, and replaced by what is right."""
    with pytest.warns(UserWarning) as told:
        found = boundaries(1e-3, 200, cache=path.parent)
    (line,) = [str(one.message) for one in told]
    assert line == f"boundaries {path}: {message}; they are computed again"
    expected = boundaries(1e-3, 200, cache=whole.parent)
    assert np.array_equal(found.certify_at, expected.certify_at) and np.array_equal(found.give_up_at, expected.give_up_at)
    with np.load(path) as ours, np.load(whole) as theirs:
        assert sorted(ours) == sorted(theirs) and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def moved(path: Path, folder: Path) -> Path:
    """A copy in a folder that this process has not read yet."""
    folder.mkdir()
    return Path(shutil.copy(path, folder / path.name))


def test_a_damaged_file_is_computed_again(tmp_path: Path):
    whole = the_file(tmp_path / "whole")
    data = whole.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for i, damaged in enumerate((b"", data[:1], data[: len(data) // 2], data[:-1], bytes(flipped), b"PK\x03\x04" + bytes(100), b"text\n")):
        path = moved(whole, tmp_path / str(i))
        path.write_bytes(damaged)
        recomputed(path, whole, "damaged")


def test_a_file_of_another_key_is_computed_again(tmp_path: Path):
    path = moved(whole := the_file(tmp_path / "one"), tmp_path / "here")
    shutil.copy(the_file(tmp_path / "other", alpha=1e-2), path)
    recomputed(path, whole, "made for another key")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("certify_at", lambda table: table - (table == table[10, 3])),  # a vote less, which no shape shows
        ("give_up_at", lambda table: np.maximum(table - 1, -1)),
        ("certify_at", lambda table: table[::-1]),
        ("certify_at", lambda table: table.astype(np.float64)),
        ("certify_at", lambda table: table[:, 1:]),
        ("certify_at", lambda table: table[:0]),
        ("certify_at", lambda table: table - 1000),
        ("certify_at", lambda table: table + 1000),
        ("give_up_at", lambda table: table[1:]),
        ("give_up_at", lambda table: table + 1000),
        ("looks", lambda looks: looks + 1),
        ("looks", lambda looks: looks.astype(np.int32)),
    ],
)
def test_changed_tables_are_computed_again(name: str, change, tmp_path: Path):
    path = moved(whole := the_file(tmp_path / "one"), tmp_path / "here")
    content = dict(np.load(path))
    np.savez(path, **{**content, name: change(content[name])})
    recomputed(path, whole, "changed after they were written")


def test_pickled_objects_are_computed_again(tmp_path: Path):
    path = moved(whole := the_file(tmp_path / "one"), tmp_path / "here")
    np.savez(path, **{**dict(np.load(path)), "looks": np.array([object()])})
    recomputed(path, whole, "damaged")


def test_a_cache_that_cannot_be_used_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("in the way")
    assert boundaries(1e-3, 200, cache=tmp_path / "file" / "cache").key.n_max == 200

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(statistics_boundaries, "write_bytes", full)
    assert boundaries(1e-3, 200, cache=tmp_path / "full").key.n_max == 200
    assert not (tmp_path / "full").exists()

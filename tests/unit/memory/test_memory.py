"""Algorithm 3 case by case, and `remember` on logs of real images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ddrs.certification.records import LOG_COLUMNS, read_log
from ddrs.certification.run import certify
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.certification.shards import Shard
from ddrs.data.splits import as_float, load_split, split_digests
from ddrs.errors import DdrsError
from ddrs.memory.memory import Memory
from ddrs.memory.remember import remember
from ddrs.models.architectures import build_model
from ddrs.models.checkpoints import save_model
from ddrs.models.devices import Runtime
from tests.unit.helpers import write_log, write_plain

pytestmark = pytest.mark.usefixtures("invented_radii")  # bounds are computed again in test_certify_log.py and tests/adversarial

A, B, C, ABSTAIN = 0, 1, 2, -1


def answers(*queries: tuple[float, int, float], norm: str = "l2") -> list[tuple[int, float]]:
    """What a memory of one-dimensional inputs says to (x, class, radius), in turn."""
    memory = Memory(norm)
    return [memory.insert(np.array([x]), label, radius) for x, label, radius in queries]


def near(radius: float):
    """Up to float32's rounding of the inputs."""
    return pytest.approx(radius, abs=1e-6)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize(
    ("queries", "last"),
    [
        ([(0, A, 1.0)], (A, 1.0)),
        ([(0, A, 1.0), (0.6, B, 0.5)], (A, 0.4)),  # inside: adopts, up to the ball's border
        ([(0.6, B, 0.5), (0, A, 1.0)], (A, 0.1)),  # the other order: outside, shrinks to the border
        ([(0, A, 1.0), (1.3, B, 0.5)], (B, 0.3)),  # overlap: shrinks
        ([(0, A, 1.0), (0.6, B, 0.125)], (A, 0.125)),  # adopts with its own radius, where that is the smaller
        ([(0, A, 1.0), (0.6, A, 3.0)], (A, 3.0)),  # balls of one class may overlap
        ([(0, A, 1.0), (1.0, B, 0.5)], (B, 0.0)),  # on the border is outside: the ball is open
        ([(0, A, 1.0), (3.0, B, 0.5)], (B, 0.5)),  # apart
        ([(0, A, 1.0), (0.6, ABSTAIN, 0)], (A, 0.0)),  # an abstention inside a ball adopts
        ([(0, A, 1.0), (1.6, ABSTAIN, 0)], (ABSTAIN, 0.0)),  # and outside stays
        ([(0.75, ABSTAIN, 0), (0, A, 1.0)], (A, 0.75)),  # a ball over an earlier abstention shrinks to its distance
        ([(0.75, ABSTAIN, 0), (0.5, ABSTAIN, 0)], (ABSTAIN, 0.0)),
        ([(0, A, 1.0), (4, B, 1.0), (2, C, 5.0)], (C, 1.0)),
        ([(0, A, 1.0), (5, B, 1.0), (2, C, 5.0)], (C, 1.0)),  # the nearest border counts
        ([(0, A, 2.0), (1, A, 2.0), (1.5, B, 9.0)], (A, 1.5)),  # inside two balls of a class: the larger room
        ([(0, A, 1.0), (3, A, 5.0), (0.5, B, 9.0)], (A, 2.5)),
        ([(0, A, 1.0), (1.5, B, 0.75), (0.75, C, 9.0)], (A, 0.25)),  # containment before overlap, though B's ball touches
        ([(0, A, 1.0), (0.5, B, 0.0)], (A, 0.0)),
    ],
)
def test_cases(queries: list, last: tuple[int, float], norm: str):
    label, radius = answers(*queries, norm=norm)[-1]
    assert (label, radius) == (last[0], near(last[1]))


def test_an_adopted_ball_counts_under_its_new_class():
    """The entry at 0.6 is of class A now: a later B inside it becomes A, a later A beside it may overlap."""
    assert answers((0, A, 1.0), (0.5, B, 0.25), (0.625, B, 1.0))[-1] == (A, 0.375)
    assert answers((0, A, 1.0), (0.5, B, 0.25), (0.625, A, 1.0))[-1] == (A, 1.0)


def test_a_repeated_input_gets_what_is_stored():
    """Whatever is asked the second time, in whatever dtype; -0.0 is 0.0."""
    assert answers((0, A, 1.0), (0, B, 7.0), (-0.0, ABSTAIN, 0)) == [(A, 1.0)] * 3
    memory = Memory()
    memory.insert(np.array([np.float32(0.1)], np.float64), A, 0.5)
    assert memory.insert(np.array([0.1], np.float32), B, 0.1) == (A, 0.5)
    assert memory.insert(torch.tensor([[0.1]]), B, 0.1) == (A, 0.5)
    assert (len(memory), memory.adopted, memory.shrunk) == (1, 0, 0), "a repetition is no entry"


def test_norms():
    """(3, 4) is 5 away in l2 and 7 in l1."""
    for norm, distance in (("l2", 5.0), ("l1", 7.0)):
        memory = Memory(norm)
        memory.insert(np.zeros(2), A, 1.0)
        assert memory.insert(np.array([3, 4]), B, 9.0) == (B, distance - 1)
    memory = Memory("l1")
    memory.insert(np.zeros(2), A, 6.0)
    assert memory.insert(np.array([3, 4]), B, 1.0) == (B, 1.0), "in l1 this is outside"
    with pytest.raises(DdrsError, match="norm 'linf'"):
        Memory("linf")  # type: ignore[arg-type]


def test_counts_what_it_did():
    memory = Memory()
    for x, label, radius in [(0, A, 1.0), (0.5, B, 0.5), (1.25, B, 0.5), (9, A, 1.0), (9, A, 1.0), (0.25, ABSTAIN, 0), (5, ABSTAIN, 0)]:
        memory.insert(np.array([x]), label, radius)
    assert (len(memory), memory.adopted, memory.shrunk) == (6, 2, 1)


def test_many_entries_are_all_remembered():
    """Beyond the first allocation and the first chunk of distances."""
    memory = Memory()
    for i in range(3000):
        assert memory.insert(np.array([2.0 * i, 0.0]), i % 7, 0.5) == (i % 7, 0.5)
    for i in (0, 63, 64, 127, 128, 1023, 1024, 2047, 2048, 2999):
        assert memory.insert(np.array([2.0 * i + 0.25, 0.0]), 9, 3.0) == (i % 7, 0.25)
        assert memory.insert(np.array([2.0 * i, 1.0]), 9, 3.0) == (9, 0.5)


def test_distances_are_float64():
    """A radius between the float64 distance and what float32 makes of it decides rightly."""
    x, y = np.array([1000.0, 0.0], np.float32), np.array([0.0, 0.01], np.float32)
    memory = Memory()
    memory.insert(x, A, 1000.0 + 2e-8)
    distance = np.hypot(1000.0, np.float64(np.float32(0.01)))
    assert distance > 1000.0 + 2e-8 > float(np.float32(distance))
    label, radius = memory.insert(y, B, 1.0)
    assert label == B and 0 < radius < 1e-6


@pytest.mark.parametrize(
    ("x", "label", "radius"),
    [
        ([1.0, 2.0], A, -0.1),
        ([1.0, 2.0], A, float("nan")),
        ([1.0, 2.0], A, float("inf")),
        ([1.0, 2.0], ABSTAIN, 0.1),
        ([1.0], A, 0.1),
        ([1.0, 2.0, 3.0], A, 0.1),
        ([1.0, float("nan")], A, 0.1),
        ([1.0, float("inf")], A, 0.1),
        ([0.0, 0.0], A, float("nan")),  # also for an input that is stored
    ],
)
def test_bad_queries_are_refused_and_change_nothing(x: list, label: int, radius: float):
    memory = Memory()
    memory.insert(np.zeros(2), A, 0.5)
    with pytest.raises(DdrsError):
        memory.insert(np.array(x), label, radius)
    assert len(memory) == 1
    assert memory.insert(np.array([1.0, 0.0]), B, 9.0) == (B, 0.5)


# ---- remember


def distances(manifest: Path, count: int, norm: int = 2) -> np.ndarray:
    """Between the first images of the test split."""
    x = as_float(load_split(manifest, "test").images[:count]).reshape(count, -1).astype(np.float64)
    return np.linalg.norm(x[:, None] - x[None], ord=norm, axis=2)


def log_of(manifest: Path, path: Path, rows: list, **constant: object) -> Path:
    """A log that says it was certified on the manifest's test images."""
    return write_log(path, rows, **{"dataset": "mnist5k", "data": split_digests(manifest)["test"], **constant})


def labels(manifest: Path, count: int) -> list[int]:
    return load_split(manifest, "test").labels[:count].tolist()


def test_remember_keeps_a_certified_log(mnist5k: Path, tmp_path: Path):
    """A log as `ddrs certify` writes it: its balls are small, so nothing changes but two columns."""
    model = build_model("small_cnn", (1, 28, 28), 10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # every score is 0: class 0 wins every vote
    facts = {"architecture": "small_cnn", "shape": [1, 28, 28], "classes": 10, "method": "cohen", "regime": "fs", "sigma": 0.25, "noise": "gaussian"}
    save_model(tmp_path / "model.safetensors", model, facts)
    settings, runtime = ImageCertificateSettings(n0=10, n=50, alpha=0.01), Runtime(scratch=tmp_path / "scratch")
    log = tmp_path / "log.tsv"
    certify(tmp_path / "model.safetensors", mnist5k, log, settings, 0.25, None, None, "test", 8, Shard(), None, None, 0, runtime, lambda line: None)
    counts = remember(log, mnist5k, tmp_path / "memory.tsv")
    before, after = read_log(log).table, read_log(tmp_path / "memory.tsv").table
    assert counts == {"kept": 8, "adopted": 0, "shrunk": 0, "repeated": 0} and (before["radius"] > 0.3).all() and set(before["predict"]) == {0}
    assert after.columns.tolist() == [*LOG_COLUMNS, "memory"] and set(after["memory"]) == {"kept"}
    same = [name for name in LOG_COLUMNS if name not in ("digest", "check")]
    assert after[same].equals(before[same])
    assert (after["digest"] != before["digest"]).all()


def test_remember_adopts_and_shrinks_in_the_order_of_idx(mnist5k: Path, tmp_path: Path):
    """Huge radii: image 0 reaches over one image but not to another, whatever the order of the lines."""
    d, truth = distances(mnist5k, 6), labels(mnist5k, 6)
    near, far = max(((i, j) for i in range(1, 6) for j in range(i + 1, 6)), key=lambda pair: d[0, pair[1]] - d[0, pair[0]])
    reach = (d[0, near] + d[0, far]) / 2
    first, other = truth[0], (truth[0] + 1) % 10
    rows = [(far, truth[far], other, 1e3), (near, truth[near], other, 1e3), (0, first, first, reach)]
    assert near < far and d[0, near] < reach < d[0, far]
    log = log_of(mnist5k, tmp_path / "log.tsv", rows)
    counts = remember(log, mnist5k, tmp_path / "out.tsv")
    after = read_log(tmp_path / "out.tsv").table.set_index("idx")
    assert after.index.tolist() == [0, near, far]
    assert after["memory"].tolist() == ["kept", "adopted", "shrunk"] and counts == {"kept": 1, "adopted": 1, "shrunk": 1, "repeated": 0}
    assert after["predict"].tolist() == [first, first, other]
    expected = [reach, reach - d[0, near], min(d[0, far] - reach, d[near, far] - (reach - d[0, near]))]
    assert (after["radius"].to_numpy() <= expected).all(), "rounded down"
    np.testing.assert_allclose(after["radius"], expected, atol=2.1e-6)  # two roundings
    assert after["correct"].tolist() == [int(after.loc[i, "predict"] == truth[i]) for i in after.index]


def test_an_adopted_class_decides_correct(mnist5k: Path, tmp_path: Path):
    """A wrong image becomes right by the class of its neighbour, and the other way round; an abstention can become right."""
    truth = labels(mnist5k, 400)
    twin, stranger = truth.index(truth[0], 1), next(i for i in range(1, 400) if truth[i] != truth[0] and i != truth.index(truth[0], 1))
    reach = float(distances(mnist5k, max(twin, stranger) + 1)[0].max()) + 1
    rows = [(0, truth[0], truth[0], reach), (twin, truth[twin], -1, 0.0), (stranger, truth[stranger], truth[stranger], 0.5)]
    remember(log_of(mnist5k, tmp_path / "log.tsv", rows), mnist5k, tmp_path / "out.tsv")
    after = read_log(tmp_path / "out.tsv").table.set_index("idx")
    assert [after.loc[i, "predict"] for i in (0, twin, stranger)] == [truth[0]] * 3
    assert [after.loc[i, "correct"] for i in (0, twin, stranger)] == [1, 1, 0]
    assert [after.loc[i, "memory"] for i in (0, twin, stranger)] == ["kept", "adopted", "adopted"]
    assert after.loc[twin, "radius"] == 0 and after.loc[stranger, "radius"] == 0.5


def test_remember_uses_the_norm_of_the_noise(mnist5k: Path, tmp_path: Path):
    """For uniform noise a radius between the l2 and the l1 distance reaches nobody."""
    l2, l1, truth = distances(mnist5k, 2)[0, 1], distances(mnist5k, 2, norm=1)[0, 1], labels(mnist5k, 2)
    rows = [(0, truth[0], 3, (l1 + l2) / 2), (1, truth[1], 4, 0.0)]
    for noise, answer in (("gaussian", 3), ("uniform", 4)):
        remember(log_of(mnist5k, tmp_path / "log.tsv", rows, noise=noise), mnist5k, tmp_path / "out.tsv")
        assert read_log(tmp_path / "out.tsv").table["predict"].tolist() == [3, answer]


def test_remember_neither_overwrites_its_input_nor_takes_its_own_output(mnist5k: Path, tmp_path: Path):
    log = log_of(mnist5k, tmp_path / "log.tsv", [(0, 0, 0, 0.5)])
    before = log.read_bytes()
    with pytest.raises(DdrsError, match="overwritten"):
        remember(log, mnist5k, tmp_path / "log.tsv")
    assert log.read_bytes() == before
    remember(log, mnist5k, tmp_path / "memory.tsv")
    with pytest.raises(DdrsError, match="already"):
        remember(tmp_path / "memory.tsv", mnist5k, tmp_path / "again.tsv")


def test_remember_repeats_its_bytes_and_keeps_k(mnist5k: Path, tmp_path: Path):
    truth = labels(mnist5k, 3)
    log = log_of(mnist5k, tmp_path / "log.tsv", [(i, truth[i], 1, 0.5 - i / 8) for i in (0, 2)], method="cohen-ds", K=900, alpha=1e-5, sigma=0.1)
    for name in ("a", "b"):
        remember(log, mnist5k, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    first, again = read_log(log), read_log(tmp_path / "a")
    for name in ("K", "alpha", "sigma0", "method", "seed", "n0", "n", "noise", "split"):
        assert first.constant(name) == again.constant(name)
    assert "\t900\t" in (tmp_path / "a").read_text() and "\t0.100000001\t" in (tmp_path / "a").read_text()


@pytest.mark.parametrize(
    ("rows", "constant", "message"),
    [
        ([(0, 1, 1, 0.5)], {"dataset": "cifar10"}, "is of cifar10"),
        ([(0, 1, 1, 0.5)], {"split": "holdout"}, "no split 'holdout'"),
        ([(500, 1, 1, 0.5)], {}, "idx 500 is outside"),
        ([(-3, 1, 1, 0.5), (2, 1, 1, 0.5)], {}, "idx -3 is outside"),
        ([(0, 1, -1, 0.5)], {}, "abstention"),
        ([(0, 1, 1, 0.5)], {"noise": "laplace"}, "laplace"),
        ([(0, 99, 1, 0.5)], {}, "idx 0 has label 99, but .* has 0"),
        ([(0, 1, 1, 0.5)], {"data": "00000000000000aa"}, "was certified on other test images of mnist5k than .* holds; certify again"),
    ],
)
def test_remember_refuses_a_log_that_does_not_fit(mnist5k: Path, tmp_path: Path, rows: list, constant: dict, message: str):
    log = log_of(mnist5k, tmp_path / "log.tsv", rows, **constant)
    with pytest.raises(DdrsError, match=message):
        remember(log, mnist5k, tmp_path / "out.tsv")
    assert not (tmp_path / "out.tsv").exists()


def test_remember_refuses_a_log_that_says_too_little(mnist5k: Path, tmp_path: Path):
    with pytest.raises(DdrsError, match="lacks the column 'sigma'"):
        remember(write_plain(tmp_path / "log.tsv", [(0, 1, 1, 0.5, 1, 0)]), mnist5k, tmp_path / "out.tsv")
    with pytest.raises(DdrsError, match="no such file"):
        remember(write_log(tmp_path / "ours.tsv", [(0, 1, 1, 0.5)]), tmp_path / "manifest.json", tmp_path / "out.tsv")

"""Images served together in one or several threads: the same counts, no error lost, no thread left behind."""

import threading
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from ddrs.certification import serving
from ddrs.certification.certificates import smoothing
from ddrs.certification.serving import Job, _Service, serve
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.certification.task import Outcome, Steps, make_task
from ddrs.errors import DdrsError
from ddrs.noise.laws import certifiable_noise

CPU = torch.device("cpu")
PROTOCOLS = {"fixed": {}, "two-stage": {"protocol": "two-stage"}, "sequential": {"protocol": "sequential", "radii": [0.0, 0.1, 0.3]}}
Scores = Callable[[torch.Tensor], torch.Tensor]
pytestmark = pytest.mark.timeout(60)


def half_space(images: torch.Tensor) -> torch.Tensor:
    return torch.stack([-images[:, 0], images[:, 0]], 1)


def jobs(count: int, protocol: str = "fixed", n: int = 1000) -> Iterator[Job]:
    """Images ever farther from the border, so that the first need the most samples of a sequential test."""
    settings = ImageCertificateSettings(**{"n0": 20, "n": n, "alpha": 0.01, **PROTOCOLS[protocol]})  # type: ignore[arg-type]
    noise = certifiable_noise("gaussian")
    task, sampler = make_task(settings, noise, 0.0), noise.at(0.5)
    for i in range(count):
        yield Job(i, torch.tensor([0.31 + 0.1 * i, 0.0, 0.0]), sampler, (0, "", i), smoothing.steps(task, np.float32(0.5)))


def served(some: Iterator[Job], scores: list[Scores], batch_size: int = 64) -> Iterator[tuple[int, Outcome]]:
    return serve(some, scores, batch_size, 3, CPU)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("batch_size", [1, 64, 5000])
def test_any_number_of_threads_gives_the_same_counts(protocol: str, batch_size: int):
    n = 100 if batch_size == 1 else 1000
    alone, *more = [dict(served(jobs(12, protocol, n), [half_space] * threads, batch_size)) for threads in (1, 2, 3, 7)]
    assert sorted(alone) == list(range(12)) and (protocol == "fixed" or n == 100 or len({one.n for one in alone.values()}) > 1)
    for found in more:
        assert sorted(found) == list(range(12))
        for i, one in found.items():
            assert (one.counts.tolist(), one.radius, one.prediction) == (alone[i].counts.tolist(), alone[i].radius, alone[i].prediction)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("drawn", [1, 3 * 64 * 2, 3 * 64 * 7 + 5, 2**21])
def test_how_much_is_drawn_at_once_changes_no_count(drawn: int, threads: int, monkeypatch: pytest.MonkeyPatch):
    """Every pass still has the shape of one batch."""
    shapes: list[tuple[int, ...]] = []

    def scores(images: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(images.shape))
        return half_space(images)

    expected = dict(served(jobs(12, "sequential"), [half_space]))
    monkeypatch.setattr(serving, "DRAWN", drawn)
    found = dict(served(jobs(12, "sequential"), [scores] * threads))
    assert {i: (one.counts.tolist(), one.n) for i, one in found.items()} == {i: (one.counts.tolist(), one.n) for i, one in expected.items()}
    assert set(shapes) == {(64, 3)} and len(shapes) >= sum(one.n for one in found.values()) / 64


def test_several_batches_are_drawn_at_once_while_much_is_left():
    """At most as many as asked for, and at most a thread's share of half of what is left, so that all threads end together; none is empty."""
    service = _Service(jobs(2), 64, 2, CPU)  # 2 images of 20 + 1000 samples
    sizes, seen = [], set()
    while rows := service.next_rows(5):
        assert rows[0][2].start == 0 and all(one[2].stop == other[2].start for one, other in pairwise(rows))
        for request, start, part in rows:
            samples = {(id(request), sample) for sample in range(start, start + part.stop - part.start)}
            assert samples and not samples & seen
            seen |= samples
        sizes.append(rows[-1][2].stop)
        service.count(rows, torch.zeros(sizes[-1], 2))
    assert len(seen) == sum(sizes) == 2040 and len(service.found) == 2
    assert sizes[0] == 5 * 64 and sizes == sorted(sizes, reverse=True) and sizes[-2] == 64 >= sizes[-1] > 0
    left = np.cumsum([0, *sizes])
    assert all(size <= 64 * max(1, (2040 - before) // (2 * 2 * 64)) for size, before in zip(sizes, left, strict=False))


@pytest.mark.parametrize("threads", [1, 2])
def test_an_image_comes_out_when_it_is_finished(threads: int):
    """Not in the order in which images went in: easy ones pass a hard one."""
    order = [i for i, _ in served(jobs(12, "sequential"), [half_space] * threads, 1000)]
    assert sorted(order) == list(range(12)) and order[0] != 0


def failing(after: int) -> Scores:
    calls = []

    def scores(images: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) > after:
            raise RuntimeError("of this model alone")
        return half_space(images)

    return scores


@pytest.mark.parametrize("after", [0, 1, 5])
@pytest.mark.parametrize("others", [0, 1, 2])
def test_an_error_of_one_threads_model_ends_all(after: int, others: int):
    """Also where the others wait for what that one had begun; what was found before may come out. Of images without end, it gets its share."""
    found = served(jobs(10**6, "sequential"), [half_space] * others + [failing(after)])
    with pytest.raises(RuntimeError, match="of this model alone"):
        list(found)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_an_error_of_a_protocol_or_of_the_images_ends_all(threads: int):
    def broken_protocol() -> Steps:
        yield (("estimate", 100),)
        raise RuntimeError("of a protocol")

    def with_broken(steps: bool) -> Iterator[Job]:
        for job in jobs(5):
            if job.place == 3 and not steps:
                raise RuntimeError("of the images")
            if job.place == 3:
                job.steps = broken_protocol()
            yield job

    for steps, what in ((True, "of a protocol"), (False, "of the images")):
        with pytest.raises(RuntimeError, match=what):
            list(served(with_broken(steps), [half_space] * threads))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_whoever_stops_reading_ends_the_threads(threads: int):
    found = served(jobs(10**6, "sequential"), [half_space] * threads)
    assert isinstance(next(found)[1], Outcome) and isinstance(next(found)[1], Outcome)
    found.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_scores_that_decide_nothing_are_an_error_in_any_thread(threads: int, bad: float):
    """Of a single sample, however late it comes."""
    worst = 2.5

    def scores(images: torch.Tensor) -> torch.Tensor:
        return torch.where(images[:, :1] > worst, bad, half_space(images))

    with pytest.raises(DdrsError, match="NaN or infinite"):
        list(served(jobs(12), [scores] * threads))
    worst = 100.0
    assert len(list(served(jobs(12), [scores] * threads))) == 12


def test_rows_that_are_no_ones_samples_decide_nothing():
    """The rest of a batch that is not filled, whatever its scores are: 50 samples in a batch of 54."""

    def scores(images: torch.Tensor) -> torch.Tensor:
        assert len(images) == 54
        return torch.where(torch.arange(54)[:, None] < 50, half_space(images), torch.nan)

    ((_, one),) = served(jobs(1, n=30), [scores], 54)
    assert one.counts.sum() == 30


@pytest.mark.parametrize("threads", [1, 2])
def test_no_images_are_no_outcomes(threads: int):
    assert list(served(iter([]), [half_space] * threads)) == []

"""Images that are under way together: their requests fill batches of one fixed shape, in as many threads as there are copies of the model."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ddrs.certification.inference import Scores
from ddrs.certification.task import Outcome, Steps
from ddrs.errors import DdrsError
from ddrs.models.running import UNDECIDED
from ddrs.noise.samplers import Sampler
from ddrs.noise.streams import NoiseStream, Purpose

SMALLEST_REQUEST = 25  # samples between two looks: how many images must be under way to fill a batch
AT_ONCE = 2  # the most requests that a protocol makes together
DRAWN = 2**21  # values that a thread draws at once, for several batches: what a call costs is then shared by many samples


@dataclass
class Request:
    """Samples of one purpose that an image waits for: how many are not given out yet, and how many not classified."""

    stream: NoiseStream
    slot: int
    missing: int
    left: int


@dataclass
class Job:
    """One image under way: its protocol and what it is waiting for."""

    place: int
    image: torch.Tensor  # (d,) on the device
    sampler: Sampler
    key: tuple[int, str, object]
    steps: Steps
    slots: tuple[int, ...] = ()
    requests: list[Request] = field(default_factory=list)
    streams: dict[Purpose, NoiseStream] = field(default_factory=dict)

    def advance(self, votes: list[np.ndarray] | None) -> Outcome | None:
        """Hand the protocol the votes that it asked for (at first None); its next requests are taken down, or its outcome returned."""
        try:
            asked = next(self.steps) if votes is None else self.steps.send(votes)
        except StopIteration as finished:
            return finished.value
        self.requests = [Request(self._stream(purpose), slot, n, n) for slot, (purpose, n) in zip(self.slots, asked, strict=False)]
        return None

    def _stream(self, purpose: Purpose) -> NoiseStream:
        """The noise of a purpose, read on from where it stopped."""
        if purpose not in self.streams:
            seed, split, example = self.key
            self.streams[purpose] = NoiseStream(self.sampler, self.image.shape, seed, purpose, split, example, self.image)
        return self.streams[purpose]


Rows = list[tuple[Request, int, slice]]  # of some batches: whose they are, the number of the first sample, and their places


class _Service:
    """Images under way, from which batches are filled, and a histogram of votes for each of their slots. Several threads may work for it."""

    def __init__(self, jobs: Iterator[Job], batch_size: int, workers: int, device: torch.device):
        # how many images must be under way so that requests as small as between two looks fill every batch
        self.jobs, self.batch_size, self.workers, self.device = jobs, batch_size, workers, device
        self.free = [tuple(range(AT_ONCE * i, AT_ONCE * (i + 1))) for i in range(1 + -(-batch_size * workers // SMALLEST_REQUEST))]
        self.slots = AT_ONCE * len(self.free)
        self.active: list[Job] = []
        self.found: list[tuple[int, Outcome]] = []
        self.counts: torch.Tensor | None = None
        self.decided = torch.ones((), dtype=torch.bool, device=device)
        self.changed = threading.Condition()
        self.more, self.stopped, self.working, self.left = True, False, 0, 0

    def next_rows(self, most: int) -> Rows:
        """The rows of the next batches, `most` at most, the first images first; none if all is done, or the service was stopped.

        Waits for what others work at. Fewer batches where little is left, so that all threads end together.
        """
        with self.changed:
            while not self.stopped:
                self._start()
                waiting = [request for job in self.active for request in job.requests if request.missing]
                share = sum(request.missing for request in waiting) // (2 * self.workers * self.batch_size)
                size, rows, filled = self.batch_size * min(most, max(1, share)), [], 0
                for request in waiting:
                    take = min(request.missing, size - filled)
                    rows.append((request, request.stream.take(take), slice(filled, filled + take)))
                    request.missing, filled = request.missing - take, filled + take
                    if filled == size:
                        break
                if rows:
                    self.working += 1
                    return rows
                if not self.working:
                    return []
                self.changed.wait()
            return []

    def count(self, rows: Rows, scores: torch.Tensor) -> None:
        """Count the votes of a batch; images that have all their samples go on, and those that are finished come out."""
        filled, classes = rows[-1][2].stop, scores.shape[1]
        largest, found = scores[:filled].max(1)
        decided = torch.isfinite(largest).all()  # as `can_decide`
        if len(rows) == 1:
            place: Any = rows[0][0].slot * classes
        else:
            slots = np.repeat([request.slot for request, _, _ in rows], [part.stop - part.start for _, _, part in rows])
            place = torch.from_numpy(slots).to(self.device) * classes
        bins = found + place
        with self.changed:
            if self.counts is None:
                self.counts = torch.zeros(self.slots * classes, dtype=torch.int64, device=self.device)
            self.counts.scatter_add_(0, bins, torch.ones_like(bins))  # not bincount, for which the host waits
            self.decided &= decided
            for request, _, part in rows:
                request.left -= part.stop - part.start
            self.working -= 1
            for job in [job for job in self.active if not any(request.left for request in job.requests)]:
                self._go_on(job, [self._votes(request.slot, classes) for request in job.requests])
            self.changed.notify_all()

    def stop(self) -> None:
        """Let nobody begin another batch."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    def leave(self) -> None:
        """Of a worker that is done, or has failed: without it there is nobody to finish what it began, so all stop."""
        with self.changed:
            self.left += 1
        self.stop()

    def take_found(self) -> list[tuple[int, Outcome]]:
        """The outcomes since the last call."""
        found, self.found = self.found, []
        return found

    def finished(self, workers: int) -> list[tuple[int, Outcome]]:
        """Wait for further outcomes; none when all of so many workers have left."""
        with self.changed:
            self.changed.wait_for(lambda: self.found or self.left == workers)
            return self.take_found()

    def _start(self) -> None:
        """Take up images while there is room for them."""
        while self.more and self.free:
            job = next(self.jobs, None)
            if job is None:
                self.more = False
                return
            job.slots = self.free.pop()
            self.active.append(job)
            self._go_on(job, None)

    def _go_on(self, job: Job, votes: list[np.ndarray] | None) -> None:
        outcome = job.advance(votes)
        if outcome is not None:
            self.active.remove(job)
            self.free.append(job.slots)
            self.found.append((job.place, outcome))

    def _votes(self, slot: int, classes: int) -> np.ndarray:
        """The votes of a slot, int64 (classes,), which starts again at 0. DdrsError if the scores of a row so far did not decide its class."""
        assert self.counts is not None
        if not bool(self.decided):
            raise DdrsError(UNDECIDED)
        mine = self.counts[slot * classes : (slot + 1) * classes]
        found = mine.cpu().numpy().copy()
        mine.zero_()
        return found


def serve(jobs: Iterator[Job], scores: list[Scores], batch_size: int, values: int, device: torch.device) -> Iterator[tuple[int, Outcome]]:
    """Run jobs to their end, filling every batch with samples of as many of them as it takes.

    Samples are a function of their keys, so neither the batch size nor which images share a batch changes a count, but for a tie of two
    scores that kernels may round differently. Only a job that has all its samples makes the host wait for the device.
    scores: what classifies a batch; each runs in a thread of its own, which also draws its batches, so one draws while another classifies.
    """
    service = _Service(jobs, batch_size, len(scores), device)

    def batches(classify: Scores) -> Iterator[None]:
        """Draw and count batch after batch. Rows of a batch that no image took are 0: every pass has the same shape."""
        most = max(1, DRAWN // (batch_size * values))
        images = torch.empty(most * batch_size, values, device=device)  # of which a small request touches a part only
        while rows := service.next_rows(most):
            for request, start, part in rows:
                request.stream.read(images[part], start)
            filled = rows[-1][2].stop
            images[filled : filled + -filled % batch_size] = 0
            passes = [classify(images[i : i + batch_size]) for i in range(0, filled, batch_size)]
            service.count(rows, passes[0] if len(passes) == 1 else torch.cat(passes))
            yield

    if len(scores) == 1:
        for _ in batches(scores[0]):
            yield from service.take_found()
        return

    def work(classify: Scores) -> None:
        try:
            for _ in batches(classify):
                pass
        finally:
            service.leave()

    with ThreadPoolExecutor(len(scores)) as pool:
        threads = [pool.submit(work, one) for one in scores]
        try:
            while outcomes := service.finished(len(threads)):
                yield from outcomes
        finally:
            service.stop()
    for one in threads:
        one.result()

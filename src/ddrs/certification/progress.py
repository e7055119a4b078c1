"""How far a certification is: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class CertificationProgress:
    """Counts finished images, how many of them were certified, and the samples saved against n for each. A context manager.

    total: images in all; done: finished before. n: the largest number of samples per image. say: prints a line of a log file, about ten in
    all, where standard error is no terminal.
    """

    def __init__(self, total: int, done: int, n: int, say: Callable[[str], None]):
        self.total, self.finished, self.n, self.say = total, done, n, say
        self.before = done
        self.certified = self.drawn = 0
        self.started = time.perf_counter()
        self.bar: Progress | None = None
        if sys.stderr.isatty():
            texts = [TextColumn("certified {task.fields[certified]}"), TextColumn("samples saved {task.fields[saved]}")]
            self.bar = Progress(TextColumn("images"), BarColumn(), MofNCompleteColumn(), *texts, TimeRemainingColumn(), console=Console(stderr=True))
            self.task = self.bar.add_task("images", total=total, completed=done, certified="-", saved="-")

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def image(self, certified: bool, n: int) -> None:
        """One more image is finished, with n samples."""
        self.finished += 1
        self.certified += certified
        self.drawn += n
        here = self.finished - self.before
        saved = f"{1 - self.drawn / (here * self.n):.0%}"
        if self.bar:
            self.bar.update(self.task, completed=self.finished, certified=f"{self.certified}/{here}", saved=saved)
        elif self.finished % max(1, self.total // 10) == 0 or self.finished == self.total:
            left = (time.perf_counter() - self.started) / here * (self.total - self.finished)
            self.say(f"{self.finished}/{self.total} images, {self.certified} of {here} certified, {saved} of the samples saved, {left:.0f} s left")

"""A split's n-th parts, each certified by a job of its own, and their logs merged to the bytes that one job would write."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddrs.certification.records import LOG_COLUMNS, SHARD, SHARD_FORM, read_log
from ddrs.errors import DdrsError
from ddrs.files import read_text, write_text
from ddrs.sections import count_of


def merge_shards(shards: Sequence[Path], out: Path) -> int:
    """Write the log that one run over all examples would have written, from its shards in any order. Returns the number of examples.

    DdrsError if a log is no shard, a shard is of another run or of another division, or one is missing or there twice.
    """
    logs = [read_log(path) for path in shards]
    numbers: dict[str, str] = {}
    lines: dict[int, str] = {}
    for log, path in zip(logs, shards, strict=True):
        if tuple(log.table) != (*LOG_COLUMNS, SHARD) or len(set(log.table[SHARD])) != 1:
            raise DdrsError(f"{path}: not a log of `ddrs certify --shard`")
        if log.constant("digest") != logs[0].constant("digest"):
            raise DdrsError(f"{path}: is of another run than {shards[0]} ({log.constant('digest')}, not {logs[0].constant('digest')})")
        for name in ("device", "deviation", "data", "split_images"):  # what the digest does not tell apart
            if log.constant(name) != logs[0].constant(name):
                raise DdrsError(f"{path}: has {name} {log.constant(name)}, but {shards[0]} has {logs[0].constant(name)}; a log has one")
        number = str(log.constant(SHARD))
        if not re.fullmatch(SHARD_FORM, number):
            raise DdrsError(f"{path}: {SHARD} = {number!r} is not of the form 2/5 of 100")
        if number in numbers:
            raise DdrsError(f"{path}: is shard {number}, as {numbers[number]} is")
        numbers[number] = str(path)
        for line in read_text(path, "certification log").splitlines()[1:]:
            idx = int(line.partition("\t")[0])
            if idx in lines:
                raise DdrsError(f"{path}: idx {idx} is in another shard too")
            lines[idx] = line.rpartition("\t")[0]
    count, examples = next(iter(numbers)).partition("/")[2].split(" of ")
    wanted = [f"{i}/{count} of {examples}" for i in range(1, int(count) + 1)]
    missing = [number for number in wanted if number not in numbers]
    if missing or len(numbers) != len(wanted):
        raise DdrsError(
            f"{out}: of {count} shards, {len(numbers)} were given; missing: {', '.join(missing) or 'none, but others are of another division'}"
        )
    order = sorted(lines)
    if len(order) != int(examples):
        raise DdrsError(f"{out}: the shards hold {len(order)} examples, not {examples}")
    write_text(out, "\n".join(["\t".join(LOG_COLUMNS), *(lines[idx] for idx in order)]) + "\n")
    return len(order)


@dataclass(frozen=True)
class Shard:
    """Every `count`-th example from the `number`-th on; number is from 1 to count."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Of "2/5"."""
        number, count = (count_of(part) for part in text.partition("/")[::2])
        if number is None or count is None or not 1 <= number <= count:
            raise DdrsError(f"--shard {text[:40]!r}: must be I/N with 1 <= I <= N")
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, indices: np.ndarray) -> np.ndarray:
        if self.count > len(indices):
            raise DdrsError(f"--shard {self}: {self.count} shards of {len(indices)} images; at most one shard per image")
        return indices[self.number - 1 :: self.count]

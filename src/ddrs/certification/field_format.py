"""The six-column log of locuslab/smoothing, which other projects read."""

import re
from pathlib import Path

from ddrs.certification.records import PLAIN, format_line, read_log
from ddrs.errors import DdrsError
from ddrs.files import require, write_text

FIELD = (*PLAIN, "time")  # the six columns of locuslab/smoothing


def export_field_format(log: Path, times: Path | None, out: Path) -> None:
    """Write the six-column log of locuslab/smoothing; `time` comes from the timing file of the run or the log itself, or is 0."""
    table = read_log(log).table
    times_of_log = dict(zip(table["idx"], table["time"], strict=True)) if "time" in table else {}
    seconds = times_of_log if times is None else _read_times(times)
    rows = ["\t".join(FIELD)]
    for values in zip(*(table[name].tolist() for name in PLAIN), strict=True):
        fields = dict(zip(PLAIN, values, strict=True))
        rows.append(format_line({**fields, "time": seconds.get(fields["idx"], 0)}, FIELD))
    write_text(out, "\n".join(rows) + "\n")


def _read_times(path: Path) -> dict[int, float]:
    """Seconds by idx, the last of an example that was certified twice; a torn line is skipped."""
    lines = require(path, "timing file").read_bytes().decode("utf-8", errors="replace").splitlines()
    if not lines or lines[0] != "idx\tseconds":
        raise DdrsError(f"{path}: not a timing file (its first line must be idx, seconds)")
    whole = [line.split("\t") for line in lines[1:] if re.fullmatch(r"[0-9]{1,18}\t[0-9]+\.[0-9]{6}", line)]
    return {int(idx): float(seconds) for idx, seconds in whole}

"""The certification log: the field's TSV, one line per example, self-describing and safe to resume.

Columns: the first five are those of locuslab/smoothing (`idx label predict radius correct`); in place of its `time` stand the
example's sigma, the counts and settings from which the bound can be recomputed, and what made the line. Reading computes it once more.
K is the second number of the configuration: the steps of the search, empty of a fixed sigma; another knob's stands with its name, as r=0.01.
The last column, `check`, is a digest of the line, and `examples` says of how many the log is: so a line can be appended, resumed and
moved from a shard to the merged log as it is, and a changed or a missing one is still seen. The plain six-column logs of other projects
are read too, where nothing can be computed again. No torch is needed here.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri

from ddrs.certification import checks
from ddrs.certification.checks import ABSTAIN
from ddrs.errors import DdrsError
from ddrs.files import read_text, write_text
from ddrs.provenance.digests import digest, file_digest, require_distinct
from ddrs.rows import LOGGED
from ddrs.statistics.bounds import lower_confidence_bound

if TYPE_CHECKING:
    import pandas as pd

PLAIN = ("idx", "label", "predict", "radius", "correct")
OF_EXAMPLE = ("sigma", "off_grid", "n", "n_top", "n_second", "p_lower", "p_upper", "z")
STATISTICS = ("n0", "n_max", "alpha", "protocol", "bound", "spending", "looks", "noise", "precision")
OF_WHOLE = ("d", "device", "deviation", "examples", "split_images")  # values of an image, and the sampler's deviation for all of them
OF_RUN = (*STATISTICS, "dataset", "split", "data", "method", "sigma0", "K", "seed", "digest", *OF_WHOLE)
CHECK = "check"  # of all other fields of the line but the shard's
LOG_COLUMNS = (*PLAIN, *OF_EXAMPLE, *OF_RUN, CHECK)
OURS = {"digest", CHECK, "p_lower", "n_top", "protocol", "method"}  # a log with any of these columns is one of ours, and must have them all
SHARD_FORM = r"([0-9]{1,18})/([0-9]{1,18}) of ([0-9]{1,18})"
SHARD = "shard"  # the last column of a shard's log: which of how many, and of how many examples, as 2/5 of 100; the merged log has none
NUMBER = r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"
TEXT = (
    "noise",
    "dataset",
    "split",
    "data",
    "method",
    "K",
    "digest",
    "time",
    "protocol",
    "bound",
    "spending",
    "looks",
    "precision",
    "device",
    CHECK,
    SHARD,
)
TEXT_OR_EMPTY = ("n_second", "p_upper", "z")  # numbers of bound joint, of protocol sequential


def round_down(value: float, digits: int) -> str:
    """A decimal with `digits` places that reads back as a float no larger than `value`: no radius is printed that was not certified.

    A value that was printed so keeps its digits when it is read and printed again.
    """
    nearest = f"{value:.{digits}f}"
    if float(nearest) <= value:
        return nearest
    return f"{Decimal(float(value)).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_FLOOR):f}"


def round_up(value: float, digits: int) -> str:
    """A decimal with `digits` places that reads back as a float no smaller than `value`, and keeps its digits when it is printed again."""
    nearest = f"{value:.{digits}f}"
    if float(nearest) >= value:
        return nearest
    return f"{Decimal(float(value)).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_CEILING):f}"


def format_sigma(sigma: float) -> str:
    """Nine significant digits: reading them back gives the same float32."""
    return f"{np.float32(sigma):.9g}"


def format_line(fields: dict[str, Any], columns: tuple[str, ...] = LOG_COLUMNS) -> str:
    """One line of a log, without its line end. Bounds are rounded to the safe side; p_upper and z may be empty."""
    text = dict(fields)
    text["radius"] = round_down(float(fields["radius"]), 6)
    if "p_lower" in columns:
        text["p_lower"] = round_down(float(fields["p_lower"]), 12)
        text["sigma"] = format_sigma(float(fields["sigma"]))
        text["off_grid"] = round_up(float(fields["off_grid"]), 12) if float(fields["off_grid"]) else "0"
        if fields["p_upper"] != "":
            text["p_upper"] = round_up(float(fields["p_upper"]), 12)
        if fields["z"] != "":
            text["z"] = f"{float(fields['z']):.2f}"
    if CHECK in columns:
        text[CHECK] = _check_of({name: str(text[name]) for name in columns if name != CHECK})
    return "\t".join(str(text[name]) for name in columns)


def _check_of(fields: dict[str, str]) -> str:
    """The digest of a line's fields, but for `check` itself and the shard, which the merged log has not."""
    return digest({name: value for name, value in fields.items() if name not in (CHECK, SHARD)})


@dataclass(frozen=True)
class Log:
    """A certification log. `table` has at least the columns of PLAIN, one row per example, in the file's order."""

    name: str
    table: pd.DataFrame

    @property
    def recomputable(self) -> bool:
        """Whether the bounds could be computed again from the log, as they were when it was read: not for logs of other projects."""
        return CHECK in self.table

    @property
    def radius(self) -> np.ndarray:
        return self.table["radius"].to_numpy(np.float64)

    @property
    def correct(self) -> np.ndarray:
        return self.table["correct"].to_numpy(bool)

    def constant(self, column: str) -> object:
        """The value that a column has on every line, or None if the log lacks the column."""
        if column not in self.table:
            return None
        value = self.table[column].iloc[0]
        return value.item() if isinstance(value, np.generic) else value


def read_log(path: Path) -> Log:
    """Read one of our logs or a plain six-column one. DdrsError names the file and the first line that is malformed.

    Of ours every line must be as it was written, none missing, and its bound and radius what its counts give (`checks.problems`). Of others
    the radius must be one that the sigma, n and alpha in its columns allow, where it has these.
    """
    lines = read_text(path, "certification log").splitlines()
    header = lines[0].split("\t") if lines else []
    if len(set(header)) != len(header):
        raise DdrsError(f"{path}: line 1 has a column twice")
    for name in PLAIN:
        if name not in header:
            raise DdrsError(f"{path}: line 1 lacks the column {name!r}; a log has tab-separated columns {' '.join(PLAIN)} ...")
    ours = bool(OURS & set(header))
    for name in LOG_COLUMNS if ours else ():
        if name not in header:
            raise DdrsError(f"{path}: line 1 lacks the column {name!r}, which every log of ddrs has; certify again")
    for number, line in enumerate(lines[1:], start=2):
        problem = _problem(line, header)
        if problem:
            raise DdrsError(f"{path}: line {number} is malformed: {problem}")
    if len(lines) < 2:
        raise DdrsError(f"{path}: holds no examples")
    table = _table(lines)
    indices, counts = np.unique(table["idx"].to_numpy(), return_counts=True)
    if counts.max() > 1:
        raise DdrsError(f"{path}: idx {indices[counts.argmax()]} occurs {counts.max()} times")
    if ours:
        _check_ours(path, table)
    else:
        _check_foreign(path, table)
    return Log(str(path), table)


def read_logs(paths: Sequence[Path]) -> list[Log]:
    """Several logs. DdrsError also if one is there twice."""
    require_distinct(paths, "certification log")
    return [read_log(path) for path in paths]


def _table(lines: Sequence[str]) -> pd.DataFrame:
    import pandas as pd  # not needed to write a log: a third of a second

    kinds: Any = dict.fromkeys((*TEXT, *TEXT_OR_EMPTY), str)
    return pd.read_csv(io.StringIO("\n".join(lines)), sep="\t", dtype=kinds, keep_default_na=False, quoting=csv.QUOTE_NONE)


def _check_ours(path: Path, table: pd.DataFrame) -> None:
    for name in OF_RUN:
        values = set(table[name])
        if len(values) > 1:
            raise DdrsError(f"{path}: column {name!r} has {len(values)} different values; a log has one")
    examples = int(table["examples"].iloc[0])
    shard = re.fullmatch(SHARD_FORM, str(table[SHARD].iloc[0])) if SHARD in table else None
    if shard:
        number, count, examples = (int(part) for part in shard.groups())
        examples = len(range(number - 1, examples, max(1, count)))
    if len(table) != examples:
        raise DdrsError(f"{path}: holds {len(table)} examples, but was written with {examples}; certify again")
    for number, problem in enumerate(checks.problems(table), start=2):
        if problem:
            raise DdrsError(f"{path}: line {number} contradicts itself: {problem}; certify again")


def _check_foreign(path: Path, table: pd.DataFrame) -> None:
    """A log of others that states sigma, n and alpha: no radius is above that of n votes of n, sigma * Phi^-1(alpha^(1/n))."""
    if not {"sigma", "n", "alpha"} <= set(table):
        return
    for number, row in enumerate(table.to_dict("records"), start=2):
        n, alpha = row["n"], row["alpha"]
        cap = row["sigma"] * max(0.0, float(ndtri(lower_confidence_bound(n, n, alpha)))) if n else 0.0
        if row["radius"] > cap + 1e-6:
            raise DdrsError(f"{path}: line {number}: radius {row['radius']:g} is above {cap:g}, the most that n = {n} and alpha = {alpha:g} allow")


def _problem(line: str, header: list[str]) -> str | None:
    fields = dict(zip(header, line.split("\t"), strict=False))
    if line.count("\t") != len(header) - 1:
        return f"{line.count(chr(9)) + 1} fields where the header has {len(header)}"
    for name in ("idx", "label", "predict"):
        if not re.fullmatch(r"-?[0-9]{1,18}", fields[name]):
            return f"{name} = {fields[name][:40]!r} is not an integer of at most 18 digits"
    if fields["correct"] not in ("0", "1"):
        return f"correct = {fields['correct']!r} is neither 0 nor 1"
    for name in ("radius", *(name for name in ("sigma", "off_grid", "p_lower", "deviation") if name in fields)):
        if not re.fullmatch(NUMBER, fields[name]) or not np.isfinite(float(fields[name])):
            return f"{name} = {fields[name]!r} is not a finite number >= 0"
    for name in TEXT_OR_EMPTY:
        if fields.get(name) and not re.fullmatch(NUMBER, fields[name]):
            return f"{name} = {fields[name]!r} is neither empty nor a number >= 0"
    for name in {"n0", "n", "n_max", "n_top", "seed", "d", "examples", "split_images"} & fields.keys():
        if not re.fullmatch(r"[0-9]{1,20}" if name == "seed" else r"[0-9]{1,18}", fields[name]):
            return f"{name} = {fields[name][:40]!r} is not an integer >= 0 of at most {20 if name == 'seed' else 18} digits"
    if not re.fullmatch(LOGGED, fields.get("K", "")):
        return f"K = {fields['K'][:40]!r} is neither empty nor an integer of at most 18 digits, nor another number with its name, as r=0.01"
    for name in {"alpha", "sigma0"} & fields.keys():
        if not re.fullmatch(NUMBER, fields[name]) or not 0 < float(fields[name]) < (1 if name == "alpha" else np.inf):
            return f"{name} = {fields[name]!r} is out of range"
    if "n" in fields and int(fields.get("n_top", 0)) > int(fields["n"]):
        return f"n_top = {fields['n_top']} is above n = {fields['n']}"
    if fields["correct"] == "1" and (fields["predict"] != fields["label"] or int(fields["predict"]) == ABSTAIN):
        return f"correct = 1, but predict = {fields['predict']} and label = {fields['label']}"
    if int(fields["predict"]) == ABSTAIN and float(fields["radius"]) > 0:
        return f"an abstention with radius {fields['radius']}"
    if CHECK in fields and fields[CHECK] != _check_of(fields):
        return "it was changed after it was written (its check does not match)"
    return None


def resume_lines(path: Path, digest: str, say: Callable[[str], None]) -> dict[int, str]:
    """The lines of a partial log by idx, the file left with just these; a new file with a header if there is none.

    A line counts if it was written whole, carries the digest of the run, and its bound follows from its counts: a torn, damaged or edited
    one is dropped, which is said, and its example certified again. DdrsError, and the file as it was, if a whole line carries the digest of
    another run.
    """
    header = "\t".join(LOG_COLUMNS)
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")[1:-1] if path.exists() else []
    whole = [line for line in lines if _problem(line, list(LOG_COLUMNS)) is None]
    kept: dict[int, str] = {}
    if whole:
        table = _table([header, *whole])
        for other in set(table["digest"]) - {digest}:
            raise DdrsError(f"{path}: a partial log of another configuration ({other}, not {digest}); move it away")
        found = checks.problems(table)
        kept = {int(idx): line for idx, line, problem in zip(table["idx"], whole, found, strict=True) if not problem}
    if len(kept) < len(lines):
        say(f"{path}: {len(lines) - len(kept)} lines were damaged or changed; their images are certified again")
    write_text(path, "\n".join([header, *kept.values()]) + "\n")
    return kept


def run_digest(settings: Mapping[str, Any], noise: str, seed: int, split: str, number: str, inputs: Mapping[str, str]) -> str:
    """The digest that a certification's log carries.

    settings: of ImageCertificateSettings. number: what the log's column K says. inputs: digests of the model, the data and the search.
    """
    return digest({**settings, "noise": noise, "seed": seed, "split": split, "K": plain_number(number), "inputs": dict(inputs)})


def plain_number(number: str) -> int | str | None:
    """What a log's column K says as cells and digests have it: K as a whole number, None where it is empty, another knob's as r=0.01."""
    return int(number) if number.isdigit() else number or None


def memory_digest(log: Path, norm: str) -> str:
    """The digest that the memory's log of a log carries."""
    return digest({"log": file_digest(log), "memory": norm})

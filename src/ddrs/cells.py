"""The cells of a table row, one JSON each: the number, its interval, what gave it, and the paper's number beside it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ddrs.certification.records import STATISTICS, Log, read_log
from ddrs.envelope import envelope
from ddrs.errors import DdrsError
from ddrs.files import write_text
from ddrs.provenance import digest, file_digest
from ddrs.published import IMAGES, SOURCE, published

INTERVAL = (
    "95 % bootstrap over images, the choice of sigma and K redone in each replicate, at least the Clopper-Pearson interval; "
    "optimistic, and without the variance of training"
)
FACTS = ("dataset", "split", *STATISTICS, "seed")


def write_cells(paths: Sequence[Path], table: str, label: str, radii: Sequence[float], out_dir: Path, seed: int) -> None:
    """Write `RADIUS.json` (two decimals) for every radius and `acr.json` into a folder.

    The logs are those of one row: every sigma, and every K for DS. Values are certified accuracies in percent, and the ACR.
    Errors: DdrsError if the logs are of different images, rows or protocols.
    """
    if any(round(radius, 2) != radius for radius in radii):
        raise DdrsError("cells: radii must have at most two decimals, as they name the files")
    logs = [read_log(path) for path in paths]
    best = envelope(logs, radii, seed=seed)
    for log in logs:
        if log.constant("method") != label:
            raise DdrsError(f"{log.name}: is of row {log.constant('method')}, not {label}")
        if ("memory" in log.table) != (row_of(label) != "fs"):
            state = "never passed" if row_of(label) != "fs" else "has been through"
            raise DdrsError(f"{log.name}: {state} the memory; rows ds and ds2 are of `ddrs remember`, rows of a fixed sigma are not")
    facts = {name: logs[0].constant(name) for name in FACTS}
    for log in logs[1:]:
        for name, value in facts.items():
            if log.constant(name) != value:
                raise DdrsError(f"{log.name}: has {name} {log.constant(name)}, but {logs[0].name} has {value}")
    shared = {
        "table": table,
        "label": label,
        **facts,
        "images": len(logs[0].table),
        "selection": f"best over sigma and K on the same {facts['split']} images, as in the paper: optimistic",
        "interval_is": INTERVAL,
        "memory": _memory_counts(logs),
        "digests": {Path(log.name).name: file_digest(Path(log.name)) for log in logs},
    }
    columns = {f"{radius:.2f}": i for i, radius in enumerate(radii)}
    for column, i in columns.items():
        value, interval = 100 * best.accuracy[i], 100 * best.accuracy_interval[i]
        _write(out_dir, column, "certified accuracy, %", value, interval, logs[best.chosen[i]], shared, {})
    _write(
        out_dir,
        "acr",
        "average certified radius" + (", a lower bound" if facts["protocol"] == "sequential" else ""),
        best.acr,
        best.acr_interval,
        logs[best.acr_chosen],
        shared,
        {"acr_oracle (not a classifier)": best.acr_oracle},
    )


def _write(out_dir: Path, column: str, unit: str, value: float, interval: np.ndarray, log: Log, shared: dict, more: dict) -> None:
    k = log.constant("K")
    paper = published(shared["table"], shared["dataset"], shared["label"], column)
    cell = {
        **shared,
        "column": column,
        "unit": unit,
        "value": round(float(value), 6),
        "interval": [round(float(bound), 6) for bound in interval],
        "sigma0": log.constant("sigma0"),
        "K": int(str(k)) if k else None,  # empty: the log is of a fixed sigma
        **{name: round(float(one), 6) for name, one in more.items()},
        "paper": paper,
        "paper_source": SOURCE if paper is not None else None,
        "verdict": _verdict(value, interval, paper, shared, column),
    }
    cell["digest"] = digest(cell)
    write_text(out_dir / f"{column}.json", json.dumps(cell, indent=2, sort_keys=True) + "\n")


def _verdict(value: float, interval: np.ndarray, paper: float | None, shared: dict, column: str) -> str:
    """within if the 95 % interval of the difference of ours and the print contains 0, else above or below; no print without one.

    The print is of protocol fixed with bound binary, and compared with nothing else.

    The print is taken as a binomial share at its own number of images; the ACR has none, so it is compared as if it were exact.
    """
    if paper is None:
        return "no print"
    if (shared["protocol"], shared["bound"]) != ("fixed", "binary"):
        return f"not comparable: protocol {shared['protocol']}, bound {shared['bound']}"
    share = paper / 100
    theirs = 0.0 if column == "acr" else 100 * 1.96 * np.sqrt(share * (1 - share) / IMAGES[shared["dataset"]])
    half = np.hypot((interval[1] - interval[0]) / 2, theirs)
    return "within" if abs(value - paper) <= half else "above" if value > paper else "below"


def _memory_counts(logs: Sequence[Log]) -> dict[str, int] | None:
    """How many passes of how many entries the memory made of a row's logs, and what they did in sum; None for rows without memory."""
    if any("memory" not in log.table for log in logs):
        return None
    changes = [change for log in logs for change in log.table["memory"]]
    counts = {name: changes.count(name) for name in ("kept", "adopted", "shrunk", "repeated")}
    return {"passes": len(logs), "entries": len(logs[0].table), **counts}


def row_of(label: str) -> str:
    """The row of a label: fs for a method alone, else ds, ds2 or gds."""
    row = label.partition("-")[2] or "fs"
    if row not in ("fs", "ds", "ds2", "gds"):
        raise DdrsError(f"label {label!r}: must be a method, method-ds, method-ds2 or method-gds")
    return row


def read_cell(path: Path) -> dict:
    """A cell, or a DdrsError that names the file."""
    try:
        cell = json.loads(Path(path).read_text(encoding="utf-8"))
        own = cell.pop("digest")
    except FileNotFoundError:
        raise DdrsError(f"cell {path}: no such file") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise DdrsError(f"cell {path}: not a cell file") from None
    if own != digest(cell):
        raise DdrsError(f"cell {path}: was changed after it was written (its digest does not match)")
    return {**cell, "digest": own}

"""The cells of a table row, one JSON each: the number, its interval, what gave it, and the paper's number beside it."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from ddrs.certification.records import STATISTICS, Log, memory_digest, read_logs
from ddrs.envelope import Envelope, check_comparable, envelope
from ddrs.errors import DdrsError
from ddrs.files import require, write_text
from ddrs.norms import norm_of
from ddrs.provenance.digests import digest, file_digest, require_distinct
from ddrs.published import SOURCE
from ddrs.rows import ALTERNATE, KINDS, SELECTED, TABLES, Row, table_of_print
from ddrs.selection import TIES, Choice, Selected, choose, configuration, halves, selected
from ddrs.statements import memory_counts
from ddrs.verdicts import judge

WITHOUT = "without the variance of training"
INTERVALS = {  # by where sigma and K were chosen: of an accuracy, of the ACR
    "test": (
        "95 % bootstrap over images, the choice of sigma and K redone in each replicate, at least the Clopper-Pearson interval; optimistic",
        "95 % bootstrap over images, the choice of sigma and K redone in each replicate; optimistic",
    ),
    **dict.fromkeys(("validation", ALTERNATE), ("95 % Clopper-Pearson", "95 % bootstrap over images of the one chosen configuration")),
}
FACTS = ("dataset", "split", "data", *STATISTICS, "seed")
OF_ROW = ("table", "label", *FACTS, "kind", "made", "images", "choice", "selection", "memory")  # what all cells of a row share, and ...
OF_ROW += ("digests", "validation_digests", "digests_before_memory")  # ... by what their logs are known
OF_CELL = ("column", "unit", "value", "interval", "interval_is", "sigma0", "K", "paper", "difference", "verdict", "paper_source")
ROUNDING = 2e-6  # two of the numbers that are rounded to six decimals
SAME_ON_VALIDATION = ("dataset", "noise", "protocol", "bound")


def write_cells(
    paths: Sequence[Path],
    table: str,
    label: str,
    radii: Sequence[float],
    out_dir: Path,
    seed: int,
    validation: Sequence[Path] = (),
    choose_on: str = "validation",
    kind: str | None = None,
    before: Sequence[Path] = (),
    made: str = "",
) -> None:
    """Write `RADIUS.json` (two decimals) for every radius and `acr.json` into a folder.

    The logs are those of one row: every sigma, and every K for DS. Values are certified accuracies in percent, and the ACR. Each is the
    best over the logs, as in the paper; for a table that ends in `_selected` it is of the sigma and K that other images choose. choose_on
    says which: "validation", the validation logs of the same row, before a test log is read; or "even", every second image of the logs, the
    cells being of the others. before: of a row with a memory whose even images choose, the logs that the memory made these of; on them they
    choose, as no other image changed them. kind: what the logs' dataset is, by which the print is found; default: its name. made: how the row's
    models and sigmas were made, for captions. alpha is that of the logs and per image: in each log a certificate is false with probability
    at most alpha, alpha * images of them on average. The best of several logs looks at as many certificates of every image, each at its
    own alpha; nothing is divided for that.
    Errors: DdrsError if the logs are of different images, rows or protocols.
    """
    if any(round(radius, 2) != radius for radius in radii):
        raise DdrsError("cells: radii must have at most two decimals, as they name the files")
    _check_choice(table, label, validation, choose_on, before)
    held_out = read_row(validation, label) if validation else []
    choice = choose(held_out, radii) if validation else None
    logs = read_row(paths, label)
    _check_same([*logs, *held_out], SAME_ON_VALIDATION)
    _check_same(logs, FACTS)
    reported, choosers = logs, held_out
    if choose_on == ALTERNATE:
        earlier = read_logs(before) or logs
        check_before(earlier, logs)
        choosers, reported = halves(earlier)[0], halves(logs)[1]
        choice = choose(choosers, radii, ALTERNATE)
    best = selected(reported, choice, radii, seed=seed) if choice else envelope(reported, radii, seed=seed)
    shared = {
        "table": table,
        "label": label,
        **{name: logs[0].constant(name) for name in FACTS},
        "kind": kind or logs[0].constant("dataset"),
        "made": made,
        "images": len(reported[0].table),
        "choice": choice.on if choice else "test",
        "selection": _selection(reported, choosers, choice),
        "memory": memory_counts(logs),
        "digests": {Path(log.name).name: file_digest(Path(log.name)) for log in logs},
        "validation_digests": {Path(log.name).name: file_digest(Path(log.name)) for log in held_out},
        "digests_before_memory": {path.name: file_digest(path) for path in before},
    }
    for i, radius in enumerate(radii):
        _write(out_dir, f"{radius:.2f}", 100 * best.accuracy[i], 100 * best.accuracy_interval[i], reported[best.chosen[i]], shared)
    _write(out_dir, "acr", best.acr, best.acr_interval, reported[best.acr_chosen], {**shared, **_of_acr(reported, best, choice)})


def _check_choice(table: str, label: str, validation: Sequence[Path], choose_on: str, before: Sequence[Path]) -> None:
    if table_of_print(table) not in TABLES:
        raise DdrsError(f"--table {table!r}: must be {', '.join(TABLES)}, or one of them with {SELECTED} at its end")
    if choose_on not in ("validation", ALTERNATE):
        raise DdrsError(f"--choose-on {choose_on!r}: must be validation or {ALTERNATE}")
    if choose_on == ALTERNATE and validation:
        raise DdrsError(f"cells of {table}: validation logs are given, but every second test image is to choose; give one or the other")
    if choose_on == ALTERNATE and not table.endswith(SELECTED):
        raise DdrsError(f"cells of {table}: --choose-on {ALTERNATE} is for a table that ends in {SELECTED}, and for no other")
    if bool(before) != (choose_on == ALTERNATE and Row.parse(label).kind.memory):
        raise DdrsError(f"cells of {table}, {label}: --before is needed for a row with a memory whose even images choose, and for no other")
    if choose_on != ALTERNATE and table.endswith(SELECTED) != bool(validation):
        raise DdrsError(f"cells of {table}: validation logs are needed for a table that ends in {SELECTED}, and for no other")


def read_row(paths: Sequence[Path], label: str) -> list[Log]:
    """The logs of one row. DdrsError for a log of another row, or one that lacks the memory pass or has one that its row has not."""
    logs = read_logs(paths)
    memory = Row.parse(label).kind.memory
    for log in logs:
        if log.constant("method") != label:
            raise DdrsError(f"{log.name}: is of row {log.constant('method')}, not {label}")
        if ("memory" in log.table) != memory:
            state, passed = "never passed" if memory else "has been through", ", ".join(kind.name for kind in KINDS.values() if kind.memory)
            raise DdrsError(f"{log.name}: {state} the memory; rows {passed} are of `ddrs remember`, others are not")
    return logs


def check_before(earlier: Sequence[Log], logs: Sequence[Log]) -> None:
    """DdrsError unless `earlier` are what the memory made the logs of a row of, one each; of a row without memory, the logs themselves."""
    for log in earlier:
        if "memory" in log.table:
            raise DdrsError(f"{log.name}: has been through the memory; --before takes the log that it was made of")
    _check_same([*logs, *earlier], ("method", *FACTS))
    check_comparable([*logs, *earlier])
    if sorted(map(configuration, earlier)) != sorted(map(configuration, logs)):
        raise DdrsError(f"{logs[0].name}: each log of its row needs the one that it was made of (--before); {len(earlier)} of {len(logs)} are given")
    by_configuration = {configuration(log): log for log in earlier}
    for log in logs:
        one = by_configuration[configuration(log)]
        if one is not log and memory_digest(Path(one.name), norm_of(log.constant("noise"), log.name)) != log.constant("digest"):
            raise DdrsError(f"{one.name}: is not what the memory made {log.name} of; give the log itself, unchanged")


def _check_same(logs: Sequence[Log], names: Sequence[str]) -> None:
    for log in logs[1:]:
        for name in names:
            if log.constant(name) != logs[0].constant(name):
                raise DdrsError(f"{log.name}: has {name} {log.constant(name)}, but {logs[0].name} has {logs[0].constant(name)}")


def _selection(reported: Sequence[Log], choosers: Sequence[Log], choice: Choice | None) -> str:
    split = reported[0].constant("split")
    if choice is None:
        return f"best over sigma and K on the same {split} images, as in the paper: optimistic"
    one = choosers[0]
    if choice.on == "validation":
        return f"sigma and K chosen on {len(one.table)} validation images at n = {one.constant('n_max'):,}; {TIES[choice.on]}"
    which = f"every second {split} image in order of idx, from the first on ({len(one.table)})"
    if Row.parse(str(one.constant("method"))).kind.memory:
        which += ", before the memory"
    return f"sigma and K chosen on {which}, and reported on the other {len(reported[0].table)}; {TIES[choice.on]}"


def _of_acr(logs: Sequence[Log], best: Envelope | Selected, choice: Choice | None) -> dict:
    """What only the ACR's cell has: the spread behind its verdict, and what the choice promised."""
    chosen = logs[best.acr_chosen]
    more: dict = {"deviation": round(float(np.std(chosen.radius * chosen.correct)), 6)}
    if choice:
        more[f"acr on {'validation' if choice.on == 'validation' else 'those that chose'}"] = round(choice.acr, 6)
    if isinstance(best, Envelope):
        more["acr_oracle (not a classifier)"] = round(best.acr_oracle, 6)
    return more


def _write(out_dir: Path, column: str, value: float, interval: np.ndarray, log: Log, shared: dict) -> None:
    k = log.constant("K")
    unit = "certified accuracy, %"
    if column == "acr":
        unit = "average certified radius" + (", a lower bound" if shared["protocol"] == "sequential" else "")
    cell = {
        **shared,
        "column": column,
        "unit": unit,
        "value": round(float(value), 6),
        "interval": [round(float(bound), 6) for bound in interval],
        "interval_is": f"{INTERVALS[shared['choice']][column == 'acr']}; {WITHOUT}",
        "sigma0": log.constant("sigma0"),
        "K": int(str(k)) if k else None,  # empty: the log is of a fixed sigma
    }
    cell |= judge(cell)
    cell["paper_source"] = SOURCE if cell["paper"] is not None else None
    cell["digest"] = digest(cell)
    write_text(out_dir / f"{column}.json", json.dumps(cell, indent=2, sort_keys=True) + "\n")


def read_cell(path: Path) -> dict:
    """A cell, or a DdrsError that names the file: of what is no cell, was changed after it was written, or contradicts itself."""
    require(path, "cell")
    try:
        cell = json.loads(path.read_bytes())
        own = cell.pop("digest")
        changed, flaw = own != digest(cell), _flaw(cell)
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError):
        raise DdrsError(f"cell {path}: not a cell file") from None
    if changed:
        raise DdrsError(f"cell {path}: was changed after it was written (its digest does not match); make it again")
    if flaw:
        raise DdrsError(f"cell {path}: {flaw}; make it again")
    return {**cell, "digest": own}


def _flaw(cell: dict) -> str | None:
    """What in a cell contradicts itself, or None. Errors (of lookups, types and numbers) where fields are missing or of another kind."""
    missing = [name for name in (*OF_ROW, *OF_CELL) if name not in cell]
    if missing:
        return f"lacks {missing[0]!r}"
    column, value, (low, high), images = cell["column"], cell["value"], cell["interval"], cell["images"]
    accuracy = column != "acr"
    if accuracy and not (column == f"{float(column):.2f}" and 0 <= float(column) < np.inf):
        return f"has column {column!r}, which must be acr or a radius >= 0 with two decimals"
    if type(images) is not int or images < 1 or any(type(one) not in (int, float) for one in (value, low, high)):
        raise TypeError
    most = 100 if accuracy else np.inf
    if not (0 <= low <= high <= most and 0 <= value <= most and value < np.inf):
        return f"has value {value} and interval [{low}, {high}], which must be within [0, {most:g}]"
    best = not accuracy and cell["choice"] == "test"  # of which the replicates' choice may make each end too high
    if value > high + ROUNDING or (value < low - ROUNDING and not best):
        return f"has value {value}, outside its own interval [{low}, {high}]"
    if accuracy and abs(value * images / 100 - round(value * images / 100)) > ROUNDING * images / 100:
        return f"has value {value} %, which is no share of {images} images"
    if any(cell[name] != found for name, found in judge(cell).items()):
        return "has another print, difference or verdict than follows from its value"
    return None


def read_cells(paths: Sequence[Path]) -> list[dict]:
    """Cells that may stand together.

    DdrsError if there are none, if those of one table and dataset differ in images or protocol, or if those of one row are not of the same
    logs, or contradict each other.
    """
    if not paths:
        raise DdrsError("no cells were given")
    require_distinct(paths, "cell")
    cells = [read_cell(path) for path in paths]
    first: dict[tuple[str, ...], tuple[dict, Path]] = {}
    for cell, path in zip(cells, paths, strict=True):
        place = (table_of_print(cell["table"]), cell["dataset"])
        half = ALTERNATE if cell["choice"] == ALTERNATE else ""  # whose cells are of half the images
        row = ("row", cell["table"], cell["dataset"], cell["label"])
        for key, names in ((place, ("split", "kind", *STATISTICS)), ((*place, half), ("images",)), (row, OF_ROW)):
            other, where = first.setdefault(key, (cell, path))
            for name in names:
                if cell[name] != other[name]:
                    raise DdrsError(f"cell {path}: has {name} {cell[name]}, but {where} has {other[name]}")
    rows: dict[tuple[str, ...], list[tuple[dict, Path]]] = {}
    for cell, path in zip(cells, paths, strict=True):
        if cell["choice"] == "test":  # elsewhere one configuration is chosen for each column, on other images
            rows.setdefault((cell["table"], cell["dataset"], cell["label"]), []).append((cell, path))
    for row in rows.values():
        _check_row(row)
    return cells


def _check_row(row: Sequence[tuple[dict, Path]]) -> None:
    """DdrsError if cells can't be the best of the same logs: what is certified at a radius is so at a smaller one, and counts in the ACR."""
    columns = sorted(((cell, path) for cell, path in row if cell["column"] != "acr"), key=lambda one: float(one[0]["column"]))
    for (cell, path), (farther, where) in pairwise(columns):
        if farther["value"] > cell["value"] + ROUNDING:
            raise DdrsError(f"cell {where}: has {farther['value']} %, more than {path} has at a smaller radius")
    for acr, where in ((cell, path) for cell, path in row if cell["column"] == "acr"):
        for cell, path in columns:
            if float(cell["column"]) * cell["value"] / 100 > acr["value"] + ROUNDING * (1 + float(cell["column"])):
                raise DdrsError(f"cell {where}: has an ACR of {acr['value']}, less than the {cell['value']} % of {path} alone make of it")

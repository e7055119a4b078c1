"""The cells of a table row, one JSON each: the number, its interval, what gave it, and the paper's number beside it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ddrs.certification.records import Log, memory_digest, plain_number, read_logs
from ddrs.errors import DdrsError
from ddrs.files import write_text
from ddrs.noise.norms import norm_of
from ddrs.provenance.digests import digest, file_digest
from ddrs.results.captions import memory_counts
from ddrs.results.cells import CELL_FACTS, INTERVALS, WITHOUT
from ddrs.results.envelope import Envelope, check_comparable, envelope
from ddrs.results.published.printed import CITATION
from ddrs.results.selection import TIES, Choice, Selected, choose, configuration, halves, numbered, selected
from ddrs.results.verdicts import judged_cell
from ddrs.rows import ALTERNATE, KINDS, SELECTED, TABLES, Chooser, Row, table_of_print

SAME_ON_VALIDATION = ("dataset", "noise", "protocol", "bound")


def write_cells(
    paths: Sequence[Path],
    table: str,
    label: str,
    radii: Sequence[float],
    out_dir: Path,
    seed: int,
    validation: Sequence[Path] = (),
    choose_on: Chooser = "validation",
    kind: str | None = None,
    before: Sequence[Path] = (),
    recipe: str = "",
) -> None:
    """Write `RADIUS.json` (two decimals) for every radius and `acr.json` into a folder.

    The logs are those of one row: every sigma, and every K for DS. Values are certified accuracies in percent, and the ACR. Each is the
    best over the logs, as in the paper; for a table that ends in `_selected` it is of the sigma and K that other images choose. choose_on
    says which: "validation", the validation logs of the same row, before a test log is read; or "even", every second image of the logs, the
    cells being of the others. before: of a row with a memory whose even images choose, the logs that the memory made these of; on them they
    choose, as no other image changed them. kind: what the logs' dataset is, by which the print is found; default: its name. recipe: how the row's
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
    _check_same(logs, CELL_FACTS)
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
        **{name: logs[0].constant(name) for name in CELL_FACTS},
        "kind": kind or logs[0].constant("dataset"),
        "made": recipe,
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


def _check_choice(table: str, label: str, validation: Sequence[Path], choose_on: Chooser, before: Sequence[Path]) -> None:
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
    memory, knob = Row.parse(label).kind.memory, Row.parse(label).kind.knob
    for log in logs:
        if log.constant("method") != label:
            raise DdrsError(f"{log.name}: is of row {log.constant('method')}, not {label}")
        if ("memory" in log.table) != memory:
            state, passed = "never passed" if memory else "has been through", ", ".join(kind.name for kind in KINDS.values() if kind.memory)
            raise DdrsError(f"{log.name}: {state} the memory; rows {passed} are of `ddrs remember`, others are not")
        if log.constant("K") and numbered(log)[0] != knob:
            raise DdrsError(f"{log.name}: has a second number {numbered(log)[0]}, where that of row {label} is {knob or 'none'}")
    return logs


def check_before(earlier: Sequence[Log], logs: Sequence[Log]) -> None:
    """DdrsError unless `earlier` are what the memory made the logs of a row of, one each; of a row without memory, the logs themselves."""
    for log in earlier:
        if "memory" in log.table:
            raise DdrsError(f"{log.name}: has been through the memory; --before takes the log that it was made of")
    _check_same([*logs, *earlier], ("method", *CELL_FACTS))
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
    split, knob = reported[0].constant("split"), numbered(reported[0])[0]
    if choice is None:
        return f"best over sigma and {knob} on the same {split} images, as in the paper: optimistic"
    one = choosers[0]
    ties = TIES[choice.on].format(knob=knob)
    if choice.on == "validation":
        return f"sigma and {knob} chosen on {len(one.table)} validation images at n = {one.constant('n_max'):,}; {ties}"
    which = f"every second {split} image in order of idx, from the first on ({len(one.table)})"
    if Row.parse(str(one.constant("method"))).kind.memory:
        which += ", before the memory"
    return f"sigma and {knob} chosen on {which}, and reported on the other {len(reported[0].table)}; {ties}"


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
        "K": plain_number(str(log.constant("K") or "")),
    }
    cell |= judged_cell(cell)
    cell["paper_source"] = CITATION if cell["paper"] is not None else None
    cell["digest"] = digest(cell)
    write_text(out_dir / f"{column}.json", json.dumps(cell, indent=2, sort_keys=True) + "\n")

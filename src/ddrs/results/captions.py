"""What tables and figures say of the certificates behind them: images, protocol, and what the memory did."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddrs.certification.certificates import CERTIFICATES
from ddrs.certification.records import Log
from ddrs.errors import DdrsError
from ddrs.files import write_text
from ddrs.rows import FIXED, STEPS, Row

PROTOCOL_FACTS = ("split", "protocol", "bound", "n0", "n_max", "alpha", "noise", "precision")
PROMISE = (
    "{rows} rows certify the stateful classifier that answers from its memory first. That promises consistency with later queries, by construction; "
    "it promises nothing about correctness or about earlier queries."
)
ALPHA_SENTENCE = "alpha is of each log by itself and is not divided among the logs that a cell is the best of."
NBSP = "\N{NO-BREAK SPACE}"


def promise(labels: Iterable[str]) -> list[str]:
    """What rows promise that are not of the plain certificate alone: those with a memory, and what other certificates say of themselves.

    Rows are called as in tables, but GDS is a DS where that stands.
    """
    kinds = list(dict.fromkeys(Row.parse(label).kind for label in labels))
    called = dict.fromkeys(kind.shown[1] for kind in kinds if kind.memory)
    names = [name for name in called if not any(name != other and name.endswith(other) for other in called)]
    others = [f"{kind.shown[1]} rows: {CERTIFICATES.module(kind.certificate).PROMISE}" for kind in kinds if kind.certificate != FIXED.certificate]
    return [*([PROMISE.format(rows=" and ".join(names))] if names else []), *others]


def other_knobs(labels: Iterable[str]) -> list[str]:
    """The second numbers of rows that are not K, each with whose it is: r for SE."""
    kinds = dict.fromkeys(Row.parse(label).kind for label in labels)
    return [f"{kind.knob} for {kind.shown[1]}" for kind in kinds if kind.knob not in (None, STEPS)]


def second_numbers(labels: Iterable[str]) -> str:
    """What configurations of rows have beside sigma: K, or K (r for SE)."""
    others = other_knobs(labels)
    return f"{STEPS} ({', '.join(others)})" if others else STEPS


def protocol_sentence(facts: Mapping[str, Any]) -> str:
    """How images were certified; facts: `images`, their number, and PROTOCOL_FACTS. alpha: the failure probability of one image in one log."""
    bound = "" if facts["bound"] == "binary" else f" with bound {facts['bound']}"
    grid = ", noise on the pixel grid" if str(facts["noise"]).endswith("lattice") else ""
    precision = "" if facts["precision"] == "float32" else f", the classifier computed in {facts['precision']}"
    return (
        f"{facts['images']} {facts['split']} images, protocol {facts['protocol']}{bound}, n0 = {facts['n0']}, n = {facts['n_max']:,}, "
        f"alpha = {facts['alpha']:g} per image and log{grid}{precision}"
    )


def memory_counts(logs: Sequence[Log]) -> dict[str, int] | None:
    """How many passes of how many entries the memory made of a row's logs, and what they did in sum; None for rows without memory."""
    if any("memory" not in log.table for log in logs):
        return None
    changes = [change for log in logs for change in log.table["memory"]]
    counts = {name: changes.count(name) for name in ("kept", "adopted", "shrunk", "repeated")}
    return {"passes": len(logs), "entries": len(logs[0].table), **counts}


def memory_sentence(label: str, counts: Mapping[str, int]) -> str:
    """What the memory did to a row, also where it did nothing."""
    passes = f"{counts['passes']} pass{'es' * (counts['passes'] > 1)} of {counts['entries']} entries"
    return f"Memory pass of {label}: {passes}, {counts['adopted']} adopted another class, {counts['shrunk']} shrank."


def recipe_sentence(cell: Mapping[str, Any]) -> str:
    """How the models and sigmas behind a cell were made."""
    return f"{Row.parse(cell['label']).method} on {cell['dataset']}: {cell['made']}."


def cells_caption(cells: Sequence[Mapping[str, Any]]) -> str:
    """The same of cells, dataset by dataset, with how its models and sigmas were made and the memory passes of each row."""
    parts: list[str] = []
    for dataset in dict.fromkeys(cell["dataset"] for cell in cells):
        cells_of_dataset = [cell for cell in cells if cell["dataset"] == dataset]
        parts += dict.fromkeys(f"{dataset}: {protocol_sentence(cell)}." for cell in cells_of_dataset)
        parts += dict.fromkeys(recipe_sentence(cell) for cell in cells_of_dataset if cell.get("made"))
        parts += dict.fromkeys(memory_sentence(cell["label"], cell["memory"]) for cell in cells_of_dataset if cell["memory"])
    return " ".join(parts)


def logs_caption(logs: Sequence[Log]) -> str:
    """The same of the logs that a figure is drawn from, in short. DdrsError for logs that are not of `ddrs certify`."""
    for log in logs:
        for name in ("dataset", "method", *PROTOCOL_FACTS):
            if log.constant(name) is None:
                raise DdrsError(f"{log.name}: has no column {name!r}; figures need logs written by ddrs certify")
    parts: list[str] = []
    for dataset in dict.fromkeys(str(log.constant("dataset")) for log in logs):
        logs_of_dataset = [log for log in logs if log.constant("dataset") == dataset]
        facts = [{"images": len(log.table), **{name: log.constant(name) for name in PROTOCOL_FACTS}} for log in logs_of_dataset]
        parts += dict.fromkeys(f"{dataset}: {protocol_sentence(one)}." for one in facts)
        labels = dict.fromkeys(str(log.constant("method")) for log in logs_of_dataset)
        counted = {label: memory_counts([log for log in logs_of_dataset if log.constant("method") == label]) for label in labels}
        passes = [f"{label} {one['passes']} of {one['entries']} ({one['adopted']},{NBSP}{one['shrunk']})" for label, one in counted.items() if one]
        if passes:
            parts.append(f"Memory passes of how many entries (adopted another class, shrank): {'; '.join(passes)}.")
    return " ".join(parts)


@dataclass(frozen=True)
class Caption:
    """A figure's caption as Markdown: where it is written (nowhere without a path), its title, and how the models and sigmas shown were made."""

    path: Path | None = None
    title: str = ""
    recipes: Sequence[str] = ()

    def write(self, text: str, logs: Sequence[Log] = ()) -> None:
        """Write the title, what the figure shows, what its certificates are, and what rows of another certificate or after the memory promise."""
        if self.path is None:
            return
        parts = [f"**{self.title}.**"] if self.title else []
        parts += [text, *([logs_caption(logs)] if logs else []), *self.recipes]
        labels = [(str(log.constant("method")), "memory" in log.table) for log in logs]
        parts += promise(label for label, passed in labels if passed or not Row.parse(label).kind.memory)  # from before the memory: no promise of it
        write_text(self.path, " ".join(parts) + "\n")


NO_CAPTION = Caption()

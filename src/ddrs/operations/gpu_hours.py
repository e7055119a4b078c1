"""GPU-hours of each table row on cards that nobody has at hand: `ddrs plan --on CARD`, from FLOPs and a stated utilisation."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from typer.core import TyperGroup

from ddrs.data.splits import load_split
from ddrs.errors import DdrsError
from ddrs.operations.plan import NOTHING, Command, KnownFiles, flops_of, planned, work_of
from ddrs.operations.probe import IMAGE_GRADIENT, UPDATE
from ddrs.rows import TABLES, table_of_print

# Peak FLOP/s of dense products: NVIDIA's data sheets of the H200 SXM and the A100 SXM. Where a sheet prints tensor cores with sparsity only (H200:
# 989 in tf32, 1,979 in bfloat16 and float16), half of that.
CARDS = {
    "h200": {"float32": 67e12, "tf32": 494.5e12, "bfloat16": 989.5e12, "float16": 989.5e12},
    "a100": {"float32": 19.5e12, "tf32": 156e12, "bfloat16": 312e12, "float16": 312e12},
}
STEPS = {"train": "training", "finetune": "training", "sigma": "search", "certify": "certification"}  # of the verbs that run a network
PHASES = tuple(dict.fromkeys(STEPS.values()))


class CostRow(NamedTuple):
    """A row of a table, or what no row needs."""

    table: str
    dataset: str
    label: str


BESIDE = CostRow("-", "-", "other")  # figures, comparisons, claims, and what only they need


@dataclass
class Cost:
    """What the jobs of a row compute: FLOPs by phase and precision."""

    jobs: int = 0
    flops: Counter[tuple[str, str]] = field(default_factory=Counter)
    is_upper_bound: bool = False

    def of(self, phase: str) -> int:
        """FLOPs of a phase."""
        return sum(count for (name, _), count in self.flops.items() if name == phase)

    def hours(self, card: str, utilisation: float) -> float:
        """GPU-hours on a card that computes at this share of its peak in each precision."""
        return sum(count / CARDS[card][precision] for (_, precision), count in self.flops.items()) / utilisation / 3600

    def add(self, other: "Cost") -> None:
        self.jobs, self.is_upper_bound = self.jobs + other.jobs, self.is_upper_bound or other.is_upper_bound
        self.flops.update(other.flops)


def gpu_hours(
    verbs: TyperGroup,
    targets: Sequence[str],
    snakefile: Path | None,
    configfiles: Sequence[Path],
    cards: Sequence[str],
    utilisation: float,
    form: str,
) -> str:
    """The plan by table row as text: jobs, FLOPs of training, search and certification, and GPU-hours on each card.

    A job belongs to the first row, in the order of the tables, that needs it, so that no FLOP counts twice: the models of fixed sigma to the FS
    row, one search with all K to the first row that certifies with it. A table's selected form counts to its row. Nothing is measured.
    utilisation: share of the peak, in (0, 1]. form: table or csv. DdrsError for an unknown card, a share out of range, or what cannot be planned.
    """
    for card in cards:
        if card not in CARDS:
            raise DdrsError(f"card {card!r}: unknown; known are {', '.join(CARDS)}")
    if not 0 < utilisation <= 1:
        raise DdrsError(f"utilisation {utilisation:g}: must be above 0 and at most 1")
    if form not in ("table", "csv"):
        raise DdrsError(f"format {form!r}: must be table or csv")
    commands = planned(verbs, targets, snakefile, configfiles)
    if not commands:
        return NOTHING
    costs = by_row(commands)
    lines = [_line(row, cost, cards, utilisation) for row, cost in costs.items()]
    total = Cost()
    for cost in costs.values():
        total.add(cost)
    lines.append(_line(CostRow("total", "", ""), total, cards, utilisation))
    if form == "csv":
        return _csv(lines)
    return "\n".join([*_table(lines, cards), *_assumptions(total, cards, utilisation)])


def by_row(commands: Sequence[Command]) -> dict[CostRow, Cost]:
    """What each row costs, in the order of the tables, and last what no row needs."""
    files = KnownFiles(commands)
    makers = {path: i for i, command in enumerate(commands) for path in _outputs(command)}
    cells = [(_row(commands, i, makers, files), i) for i, command in enumerate(commands) if command.verb == "cell"]
    owner: dict[int, CostRow] = {}
    costs: dict[CostRow, Cost] = {}
    order = {(table, row.label): i for table, rows in TABLES.items() for i, row in enumerate(rows)}
    for row, cell in sorted(cells, key=lambda one: (*one[0][:2], order[one[0].table, one[0].label], one[1])):
        costs.setdefault(row, Cost())
        for i in _needed(commands, cell, makers):
            owner.setdefault(i, row)
    for i, command in enumerate(commands):
        costs.setdefault(owner.get(i, BESIDE), Cost()).add(_cost(command, files))
    return costs


def _cost(command: Command, files: KnownFiles) -> Cost:
    work = work_of(command, files)
    if command.verb not in STEPS:
        return Cost(1)
    precision = str(command.flags.get("precision", "float32")).removesuffix("-compiled")
    return Cost(1, Counter({(STEPS[command.verb], precision): flops_of(work)}), work.is_upper_bound)


def _row(commands: Sequence[Command], cell: int, makers: Mapping[Path, int], files: KnownFiles) -> CostRow:
    flags = commands[cell].flags
    manifests = {commands[i].flags["data"] for i in _needed(commands, cell, makers) if "data" in commands[i].flags}
    name = "-"  # the logs are there already
    for manifest in manifests:
        maker = files.maker.get(manifest)
        name = str(maker.flags["name"]) if maker else load_split(manifest, "test").dataset
    return CostRow(table_of_print(flags["table"]), name, flags["label"])


def _outputs(command: Command) -> Iterator[Path]:
    yield from (command.flags[name] for name in ("out", "branch_out") if command.flags.get(name))
    if command.verb == "remember":
        yield from (command.flags["out_dir"] / log.name for log in command.flags["logs"])


def _needed(commands: Sequence[Command], last: int, makers: Mapping[Path, int]) -> set[int]:
    """A command and all that make what it reads, directly or not."""
    found, left = {last}, [last]
    while left:
        for path in _paths(commands[left.pop()].flags.values()):
            maker = makers.get(path)
            if maker is not None and maker not in found:
                found.add(maker)
                left.append(maker)
    return found


def _paths(values: Any) -> Iterator[Path]:
    for value in values:
        if isinstance(value, Path):
            yield value
        elif isinstance(value, list | tuple):
            yield from _paths(value)


def _line(row: CostRow, cost: Cost, cards: Sequence[str], utilisation: float) -> dict[str, Any]:
    flops = {phase: cost.of(phase) for phase in PHASES}
    return {**row._asdict(), "jobs": cost.jobs, "at_most": cost.is_upper_bound, **flops, **{card: cost.hours(card, utilisation) for card in cards}}


def _csv(lines: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([f"{name}_flops" if name in PHASES else f"{name}_hours" if name in CARDS else name for name in lines[0]])
    for line in lines:
        shown = {**line, "at_most": int(line["at_most"])}
        writer.writerow([f"{value:.3f}" if isinstance(value, float) else value for value in shown.values()])
    return text.getvalue().rstrip("\n")


def _table(lines: Sequence[dict[str, Any]], cards: Sequence[str]) -> list[str]:
    cells = [[*CostRow._fields, "jobs", *PHASES, *(f"{card} hours" for card in cards)]]
    for line in lines:
        bound = "<= " if line["at_most"] else ""
        flops = [f"{bound if phase == 'certification' else ''}{line[phase]:.3g}" if line[phase] else "-" for phase in PHASES]
        cells.append([*(line[name] for name in CostRow._fields), f"{line['jobs']:,}", *flops, *(f"{bound}{line[card]:,.1f}" for card in cards)])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    words, numbers = len(CostRow._fields), widths[len(CostRow._fields) :]
    left = [[text.ljust(width) for text, width in zip(line, widths[:words], strict=False)] for line in cells]
    right = [[text.rjust(width) for text, width in zip(line[words:], numbers, strict=True)] for line in cells]
    return ["  ".join([*names, *rest]) for names, rest in zip(left, right, strict=True)]


def _assumptions(total: Cost, cards: Sequence[str], utilisation: float) -> list[str]:
    """What the numbers stand on."""
    used = sorted({precision for _, precision in total.flops})
    peaks = ", ".join(f"{card} {CARDS[card][precision] / 1e12:g} in {precision}" for card in cards for precision in used)
    phases = ", ".join(f"{phase} {' and '.join(sorted({p for name, p in total.flops if name == phase}))}" for phase in PHASES if total.of(phase))
    bound = " <=: at most, as the protocol stops as soon as it can." if total.is_upper_bound else ""
    return [
        "Every job counts once, to the first row that needs it; `other` is what no row of a table needs.",
        f"FLOPs: 2 per multiply-add; a pass back to the image counts {IMAGE_GRADIENT} forward passes, one back to the weights {UPDATE}.{bound}",
        f"hours: at {utilisation:.0%} of the peak of dense products (TFLOP/s: {peaks}). Precision: {phases}.",
    ]

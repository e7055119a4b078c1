"""The paper's headline sentences: do its own tables give them, and do ours?"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from ddrs.files import write_together
from ddrs.provenance.digests import digest
from ddrs.results.captions import cells_caption
from ddrs.results.cells import read_cells
from ddrs.results.published.flaws import half_unit
from ddrs.results.published.printed import CITATION, published, read_csv
from ddrs.results.rendering import render
from ddrs.results.verdicts import DEFINITION, estimates, why_not_compared
from ddrs.rows import TABLES, Row, table_of_print
from ddrs.statistics.intervals import difference, verdict

ANY = ("table1", "table2", "table3")  # the l2 tables, over which a claim of table "any" takes the best
EXPLANATION = (
    "A claim is of one number, or of how far one row is above another; `*` is the best row of a fixed sigma over Tables 1 to 3, `*-ds2` the "
    "best data-dependent one. `paper_tables` is what the paper's own tables give for it, and `consistent` says whether the rounding of the "
    "claim and of the tables can explain the difference. `ours` is from our tables with sigma and K chosen on test images, as in the paper; "
    "`ours_selected` from those with the choice on other images. The verdict compares `ours` with the paper's tables, every accuracy on "
    "its own: two rows on the same images vary together, so the interval of a gain is, if anything, too wide. Which row `*` stands for is seen "
    "on the images that are reported, in `ours_selected` too. Of a claim that its tables contradict, `print inconsistent` says so."
)
CellIndex = dict[tuple[str, str, str, str], dict]  # by table, dataset, label, column


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper. label and minus: rows, minus empty for a claim of one number. value in percent, or an ACR."""

    id: str
    place: str
    text: str
    dataset: str
    table: str
    label: str
    minus: str
    column: str
    value: str

    def rows(self, pattern: str) -> list[tuple[str, str]]:
        """The (table, label) that a pattern stands for, as far as the paper prints them for the claim's dataset."""
        tables, wanted = ANY if self.table == "any" else (self.table,), Row.parse(pattern)
        found = [(table, row.label) for table in tables for row in TABLES[table] if row.kind is wanted.kind and wanted.method in ("*", row.method)]
        return [(table, label) for table, label in found if published(table, self.dataset, label, self.column) is not None]

    def printed(self, pattern: str) -> tuple[float, float]:
        """What the paper's tables give for a pattern, and half a unit of its last digit."""
        values = {(table, label): published(table, self.dataset, label, self.column) or 0.0 for table, label in self.rows(pattern)}
        return max((value, half_unit(table, self.column)) for (table, _), value in values.items())


@cache
def claims() -> tuple[Claim, ...]:
    """The sentences of claims.csv."""
    return tuple(Claim(**{"text" if name == "claim" else name: value for name, value in line.items()}) for line in read_csv("claims.csv"))


def of_paper(claim: Claim) -> tuple[float, bool]:
    """What the paper's tables give for a claim, and whether rounding can explain the difference."""
    plus, slack = claim.printed(claim.label)
    if claim.minus:
        minus, more = claim.printed(claim.minus)
        plus, slack = plus - minus, slack + more
    decimals = len(claim.value.partition(".")[2])
    return plus, abs(plus - float(claim.value)) <= slack + 0.5 * 10**-decimals + 1e-9


def write_claims(cells: Sequence[Path], csv: Path, md: Path) -> None:
    """Write a line for each claim and each dataset of the cells: those of its own kind, or if the cells have none, every other."""
    found = read_cells(cells)
    ours, chosen = (
        {
            (table_of_print(cell["table"]), cell["dataset"], cell["label"], cell["column"]): cell
            for cell in found
            if (cell["choice"] == "test") == by_test
        }
        for by_test in (True, False)
    )
    kinds = {cell["dataset"]: cell["kind"] for cell in found}
    lines = []
    for claim in claims():
        datasets_of_kind = [dataset for dataset, kind in kinds.items() if kind == claim.dataset]
        lines += [_line(claim, dataset, kinds[dataset], ours, chosen) for dataset in datasets_of_kind or kinds]
    table = pd.DataFrame(lines)
    wrong = sum(not of_paper(claim)[1] for claim in claims())
    head = f"**Claims of the paper.** {len(claims())} sentences of {CITATION}; {wrong} of them do not follow from its own tables."
    body = render(table, "md", ["%s"] * len(table.columns))
    text = f"{head} {EXPLANATION} Ours: {cells_caption(found)} {DEFINITION}"
    page = f"{text}\n\n{body}\n\nDigest of the cells: `{digest([cell['digest'] for cell in found])}`\n"
    write_together({csv: table.to_csv(index=False), md: page})


def _line(claim: Claim, dataset: str, kind: str, ours: CellIndex, chosen: CellIndex) -> dict:
    digits = 3 if claim.column == "acr" else 2
    paper, consistent = of_paper(claim)
    mine, held_out = _value(claim, dataset, ours), _value(claim, dataset, chosen)
    low, high, verdict = _verdict(claim, dataset, kind, ours)
    numbers = {"ours": mine, "ours_selected": held_out, "difference_low": low, "difference_high": high}
    return {
        "id": claim.id,
        "place": claim.place,
        "claim": claim.text,
        "dataset": claim.dataset,
        "claimed": claim.value,
        "paper_tables": f"{paper:.{digits}f}",
        "consistent": "yes" if consistent else "no",
        "our_dataset": dataset,
        **{name: None if value is None else f"{value:.{digits}f}" for name, value in numbers.items()},
        "verdict": verdict,
    }


def _best(claim: Claim, pattern: str, dataset: str, cells: CellIndex) -> dict | str:
    """The best of the cells that a pattern stands for, or the first place that has none."""
    places = [(table, dataset, label, claim.column) for table, label in claim.rows(pattern)]
    for place in places:
        if place not in cells:
            return f"{place[0]} has no column {place[3]} for {dataset} {place[2]}"
    return max((cells[place] for place in places), key=lambda cell: cell["value"])


def _terms(claim: Claim, dataset: str, cells: CellIndex) -> list[dict | str]:
    """The cell of the claim's row, and of the row that it is above."""
    return [_best(claim, pattern, dataset, cells) for pattern in (claim.label, claim.minus) if pattern]


def _value(claim: Claim, dataset: str, cells: CellIndex) -> float | None:
    terms = _terms(claim, dataset, cells)
    values = [term["value"] for term in terms if isinstance(term, dict)]
    return (values[0] - sum(values[1:])) if len(values) == len(terms) else None


def _verdict(claim: Claim, dataset: str, kind: str, cells: CellIndex) -> tuple[float | None, float | None, str]:
    """The ends of the interval of the difference, None where nothing is compared, and the verdict."""
    paper, consistent = of_paper(claim)
    if kind != claim.dataset:
        return None, None, f"not comparable: {dataset}, not {claim.dataset}"
    if not consistent:
        return None, None, f"print inconsistent: the paper's tables give {paper:.3g}"
    pairs = []
    for pattern, cell in zip((claim.label, claim.minus), _terms(claim, dataset, cells), strict=False):
        if isinstance(cell, str):
            return None, None, f"not comparable: {cell}"
        reason = why_not_compared(cell)
        if reason is not None:
            return None, None, reason
        pairs.append(estimates(cell, claim.printed(pattern)[0]))
    ours, theirs = zip(*pairs, strict=True)
    found = difference([ours[0], *theirs[1:]], [theirs[0], *ours[1:]])
    return found.low, found.high, verdict(found)

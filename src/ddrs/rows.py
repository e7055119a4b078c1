"""What a row of a table is: whose models, what finds each image's sigma, what the certificate stands on. Whatever differs by row asks here.

A row is a training method and a `Kind`; a `Run` is what one log is of; `TABLES` says which rows a table has.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal, Self

from ddrs.errors import DdrsError

Dashes = str | tuple[float, tuple[float, ...]]
Chooser = Literal["validation", "even"]  # the images that choose sigma and K
Curves = Literal["rows", "searches", "steps"]  # what the curves of a figure differ by
STEPS: Final = "K"  # the knob of a search whose numbers are its steps or points

WHOLE = "(?:0|[1-9][0-9]*)"
LOGGED = r"[0-9]{0,18}|((?!K=)[A-Za-z]+)=([0-9]{1,18}(?:\.[0-9]{1,30})?)"  # of a log's column K
ASCENT = "ascent"  # the strategy that is Algorithm 1: one search holds every K, whoever certifies with it


@dataclass(frozen=True)
class Kind:
    """A way to train, search and certify. With a training method it is a row.

    name: in paths and logs, and behind the method in labels (`fs` has none there).
    shown: what a table says in its columns `train` and `certify`.
    trained: whose models, as a folder of results/models and a file of training/regimes.
    strategy: what finds a sigma per image, a file of sigma/strategies; None: every image has the sigma of training.
    knob: the second number of a configuration, as it stands in a run's name: K, the steps or points of a search, which are whole; or, by its
        name, a setting of the strategy's own, as r, which may be any number >= 0. None without a search.
    every_k: whether one search holds all smaller K (a trajectory), or each K is a search of its own (a grid), as each number of another knob is.
    certificate: what is concluded, and so what is promised: a file of certification/certificates.
    memory: whether Algorithm 3 stands behind the answers.
    colour, dashes: of its curves, in every figure; colours that colour-blind readers tell apart (Okabe and Ito), dashes that do in grey print.
    """

    name: str
    shown: tuple[str, str]
    trained: str = "fs"
    strategy: str | None = None
    knob: str | None = None
    every_k: bool = True
    certificate: str = "smoothing"
    memory: bool = False
    colour: str = "#000000"
    dashes: Dashes = "--"

    @property
    def trajectory(self) -> bool:
        """Whether its searches go step by step from the sigma of training on: at K = 0 it is a fixed sigma."""
        return self.strategy is not None and self.every_k and self.knob == STEPS

    @property
    def setting(self) -> str | None:
        """The setting of the strategy that is the second number, where each number is a search of its own; None elsewhere."""
        return None if self.strategy is None or self.trajectory else "k_max" if self.knob == STEPS else self.knob

    @property
    def numbers(self) -> str:
        """A pattern of the second numbers as paths spell them: each number in one way."""
        return WHOLE if self.knob == STEPS else rf"{WHOLE}(?:\.[0-9]*[1-9])?"

    @property
    def search(self) -> str:
        """The folder of its searches, which the rows of one model share whose trajectories are those of Algorithm 1."""
        return self.trained if self.strategy == ASCENT and self.trajectory else self.name


def spelled(number: float) -> str:
    """A number >= 0 as paths and logs have it, each in one way and without exponent: 900, 0.01."""
    return f"{Decimal(repr(number)).normalize():f}"


def logged(knob: str, number: str) -> str:
    """What a log's column K says: 900, or the name of another knob with its number, as r=0.01."""
    return number if knob == STEPS else f"{knob}={number}"


def read_logged(text: str) -> tuple[str, float]:
    """The knob and its number of what a log's column K says; K = 0 where it is empty, of a fixed sigma. DdrsError for any other text."""
    found = re.fullmatch(LOGGED, text)
    if not found:
        raise DdrsError(f"{text[:40]!r}: must be a whole number of at most 18 digits, or NAME=NUMBER")
    return (found[1], float(found[2])) if found[1] else (STEPS, int(text or 0))


FS = Kind("fs", ("FS", "FS"))
DS = Kind("ds", ("FS", "DS"), strategy="ascent", knob="K", memory=True, colour="#0072B2", dashes="-")
DS2 = Kind("ds2", ("DS", "DS"), trained="ds2", strategy="ascent", knob="K", memory=True, colour="#D55E00", dashes=(0, (5, 1.2, 1, 1.2)))
GDS = Kind("gds", ("FS", "GDS"), strategy="grid", knob="K", every_k=False, memory=True, colour="#E69F00", dashes=(0, (1, 1)))
QCRS = Kind("qcrs", ("FS", "QCRS"), strategy="qcrs", knob="K", every_k=False, memory=True, colour="#56B4E9", dashes=(0, (4, 1, 1, 1)))
KINDS = {kind.name: kind for kind in (FS, DS, DS2, GDS, QCRS)}
FIXED = FS  # the sigma of training for every image: where every search starts, and what the others are compared with


@dataclass(frozen=True)
class Row:
    """A training method and what is done with its models."""

    method: str
    kind: Kind

    @property
    def label(self) -> str:
        """The row's name in logs, cells and tables: cohen, cohen-ds2."""
        return label_of(self.method, self.kind)

    @classmethod
    def parse(cls, label: str) -> Self:
        """Of smoothadv-ds2. DdrsError for a kind that is not known."""
        method, dash, name = label.partition("-")
        kind = KINDS.get(name) if dash else FIXED
        if not method or kind is None or (dash and kind is FIXED):
            known = ", ".join(f"METHOD-{one.name}" for one in KINDS.values() if one is not FIXED)
            raise DdrsError(f"label {label!r}: must be METHOD, {known}")
        return cls(method, kind)


def kind_of(trained: str, strategy: str | None, certificate: str = FIXED.certificate) -> Kind | None:
    """The kind of what was trained, searched and certified so; None if that is no row."""
    return next((kind for kind in KINDS.values() if (kind.trained, kind.strategy, kind.certificate) == (trained, strategy, certificate)), None)


def label_of(method: str, kind: Kind) -> str:
    """The label of a row, METHOD or METHOD-KIND."""
    return method if kind is FIXED else f"{method}-{kind.name}"


@dataclass(frozen=True)
class Run:
    """What one log is of: a kind of row at a sigma, with the second number of its configuration where it has one.

    As a path it is ds/sigma_0.25.K_900, or fs/sigma_0.25.
    """

    kind: Kind
    sigma: str  # two decimals, as in paths
    number: str | None = None  # as in paths, `spelled`

    def __str__(self) -> str:
        return f"{self.kind.name}/{self.file}"

    @property
    def file(self) -> str:
        """The file's name without its ending."""
        return f"sigma_{self.sigma}" + ("" if self.kind.knob is None else f".{self.kind.knob}_{self.number}")

    @property
    def value(self) -> float | None:
        """The second number, whole for K."""
        return None if self.number is None else int(self.number) if self.kind.knob == STEPS else float(self.number)

    @property
    def logged(self) -> str:
        """What the column K of its log says; nothing without a second number."""
        return "" if self.kind.knob is None else logged(self.kind.knob, str(self.number))

    @property
    def search(self) -> str:
        """The search whose sigmas it is certified with, as a path without its ending; errors (of values) for a kind that searches none."""
        if self.kind.strategy is None:
            raise ValueError(f"run {self}: its kind searches no sigma")
        return f"{self.kind.search}/sigma_{self.sigma}" if self.kind.trajectory else str(self)

    @classmethod
    def at(cls, kind: Kind, sigma: str, number: float | None) -> Self:
        """Of a second number that is none of a path."""
        return cls(kind, sigma, None if number is None else spelled(number))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of ds/sigma_0.25.K_900. DdrsError for what names no kind, or lacks or has a second number against its kind."""
        found = re.fullmatch(r"([a-z0-9-]+)/sigma_(\d+\.\d\d)(?:\.([A-Za-z]+)_([0-9.]+))?", text)
        kind = KINDS.get(found[1]) if found else None
        if not found or kind is None or kind.knob != found[3] or not (found[4] is None or re.fullmatch(kind.numbers, found[4])):
            raise DdrsError(f"run {text!r}: must be KIND/sigma_S, with .K_K where the kind has a second number, or that of its knob")
        return cls(kind, found[2], found[4])


def _rows(methods: str, kinds: str) -> tuple[Row, ...]:
    return tuple(Row(method, KINDS[kind]) for method in methods.split() for kind in kinds.split())


TABLES = {  # the rows of each table, in its order
    "table1": _rows("cohen", "fs ds ds2"),
    "table2": _rows("smoothadv", "fs ds ds2"),
    "table3": _rows("macer", "fs ds ds2"),
    "table4": _rows("yang", "fs ds"),
    "family": _rows("cohen", "fs qcrs") + _rows("consistency", "fs ds ds2"),
}
FIGURES = {"3": "table1", "4": "table2", "5": "table3"}  # figures that show what a table holds
SELECTED = "_selected"  # ends the name of the table whose sigma and K are chosen on validation images
ALTERNATE: Final = "even"  # where there are no validation images: every second test image chooses, and the others are reported


def table_of_print(table: str) -> str:
    """The table whose rows another form of it has: table2 for table2_selected."""
    return table.removesuffix(SELECTED)


def title_of(table: str) -> str:
    """How a table is called in captions: Table 2; of one that the paper does not number, its name."""
    name = table_of_print(table)
    return f"Table {name.removeprefix('table')}" if re.fullmatch(r"table\d+", name) else f"Table {name}"


def methods_of(table: str) -> list[str]:
    """The training methods of a table's rows, each once, in their order."""
    return list(dict.fromkeys(row.method for row in TABLES[table_of_print(table)]))


def kinds_of(table: str, method: str) -> Iterable[Kind]:
    """The kinds of the rows that a table has of a method, in their order."""
    return [row.kind for row in TABLES[table_of_print(table)] if row.method == method]

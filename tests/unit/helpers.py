"""Builders of small certification logs, written as `ddrs certify` writes them, a short call of `ddrs certify`, and what errors must be like."""

from collections.abc import Callable, Iterable
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest

from ddrs.certification.records import LOG_COLUMNS, format_line
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.models.devices import Runtime

CONSTANT = {
    "sigma": 0.25,
    "off_grid": 0.0,
    "n0": 100,
    "n": 1000,
    "n_top": 900,
    "n_second": "",
    "p_lower": 0.8,
    "p_upper": "",
    "z": "",
    "n_max": 1000,
    "alpha": 0.001,
    "protocol": "fixed",
    "bound": "binary",
    "spending": "",
    "looks": "",
    "noise": "gaussian",
    "precision": "float32",
    "dataset": "cifar10",
    "split": "test",
    "data": "0123456789abcdef",
    "method": "cohen",
    "sigma0": "0.25",
    "K": "",
    "seed": 0,
    "digest": "f" * 16,
    "d": 784,
    "device": "cpu",
    "deviation": 0.0,
    "examples": 1,
    "split_images": 10_000,
}


def write_log(path: Path, rows: Iterable[tuple[int, int, int, float]], **constant: object) -> Path:
    """A log of (idx, label, predict, radius), with `constant` over the defaults above (memory: one word for every line).

    Its radii are round numbers, which no counts give: tests that read it use the fixture `invented_radii`.
    """
    rows = list(rows)
    constant = {"examples": len(rows), **constant}
    columns = (*LOG_COLUMNS, "memory") if "memory" in constant else LOG_COLUMNS
    lines = ["\t".join(columns)]
    for idx, label, predict, radius in rows:
        one = {"idx": idx, "label": label, "predict": predict, "radius": radius, "correct": int(predict == label)}
        lines.append(format_line({**CONSTANT, **constant, **one}, columns))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def reseal(path: Path) -> None:
    """Write the check of each line of an edited log anew."""
    header, *lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [format_line(dict(zip(header, line, strict=True)), tuple(header)) for line in lines]
    path.write_text("\n".join(["\t".join(header), *lines]) + "\n", encoding="utf-8")


def certify_files(
    model: Path,
    data: Path,
    folder: Path,
    say: Callable[[str], None] = lambda line: None,
    settings: ImageCertificateSettings | None = None,
    sidecar: Path | None = None,
    name: str = "log.tsv",
    **more: Any,
) -> Path:
    """Certify six test images (or as `more` says) into FOLDER/log.tsv, with 20 + 300 samples and FOLDER/scratch."""
    from ddrs.certification.run import certify
    from ddrs.certification.shards import Shard

    given = {"sigma": 0.25, "sigmas": None, "k": None, "split": "test", "images": 6, "shard": Shard(), "batch_size": None, "times": None, "seed": 0}
    settings = settings or ImageCertificateSettings(n0=20, n=300, alpha=0.001)
    certify(model, data, folder / name, settings, runtime=Runtime(scratch=folder / "scratch", sidecar=sidecar), say=say, **{**given, **more})
    return folder / name


def write_plain(path: Path, rows: Iterable[tuple[object, ...]], header: str = "idx label predict radius correct time") -> Path:
    """A log of other people's: the six columns, as they stand."""
    lines = ["\t".join(header.split()), *("\t".join(str(field) for field in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def upper_tail(k: int, n: int, p: Decimal) -> Decimal:
    """P(Binomial(n, p) >= k) for k >= 1, summed in 60 digits."""
    with localcontext() as context:
        context.prec = 60
        term, ratio = p**n, (1 - p) / p
        total = term
        for j in range(n, k, -1):
            term = term * j / (n - j + 1) * ratio
            total += term
        return total


def one_line(error: pytest.ExceptionInfo) -> str:
    """The message of an error, which must be one line."""
    text = str(error.value)
    assert "\n" not in text
    return text

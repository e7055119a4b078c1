"""The file that `ddrs sigma` writes: what it must hold, and reading it. No torch."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ddrs.errors import DdrsError
from ddrs.files import require

TRAJECTORY_COLUMNS = {"idx": pa.int32(), "K": pa.int32(), "sigma_star": pa.float32()}


def read_sigmas(path: Path, at: int | tuple[str, float], indices: np.ndarray, made_from: dict[str, str]) -> tuple[dict[int, float], float, str]:
    """sigma* of each image after `at` steps, sigma_0, and the strategy that searched.

    at: also a setting of the strategy with its number, which the whole search must have been made at: then sigma* is that of its end.
    made_from: what the search must have been of (model and data digests, split). DdrsError if the file is damaged, was changed after it was
    written, is of something else, or lacks the step or an image. A sigma promises nothing: what is certified with it holds with probability
    1 - alpha per image as for any sigma that does not depend on the samples of the certificate.
    """
    require(path, "sigma file")
    try:
        table = pq.read_table(path, columns=list(TRAJECTORY_COLUMNS))
        facts = json.loads((table.schema.metadata or {})[b"ddrs"])
        check_sigmas(path, table, facts)
        content = facts.pop("content", None)
        if content != content_digest(table, facts):
            raise DdrsError(f"{path}: was changed after it was written (its digest does not match), or is of an older ddrs; search again")
        sigma0, strategy, k_max = float(facts["sigma0"]), str(facts["settings"]["strategy"]), int(facts["settings"]["k_max"])
        searched = facts["settings"].get(at[0]) if isinstance(at, tuple) else None
        differs = [name for name, value in made_from.items() if facts[name] != value]
    except DdrsError:
        raise
    except (pa.ArrowException, KeyError, OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DdrsError(f"{path}: not a readable sigma file ({' '.join(str(error).split())[:200]})") from None
    if differs:
        raise DdrsError(f"{path}: was searched for another {' and '.join(differs)} than is certified; search again")
    if isinstance(at, tuple) and searched != at[1]:
        raise DdrsError(f"{path}: was searched at {at[0]} = {searched}, not {at[1]:g}; search again")
    k = k_max if isinstance(at, tuple) else at
    at_k = table.filter(pa.array(table["K"].to_numpy() == k)) if 0 <= k <= k_max else table.slice(0, 0)
    found = dict(zip(at_k["idx"].to_pylist(), at_k["sigma_star"].to_pylist(), strict=True))
    if not found:
        raise DdrsError(f"{path}: has no step K = {k}; it holds 0 to {k_max}")
    missing = [int(i) for i in indices if int(i) not in found]
    if missing:
        raise DdrsError(f"{path}: has no sigma for idx {missing[0]} ({len(missing)} of {len(indices)} images are missing)")
    return found, sigma0, strategy


def check_sigmas(path: Path, table: pa.Table, facts: dict) -> None:
    """DdrsError unless the table is whole trajectories of a search with these facts.

    That is: one or more images, each once and with every K from 0 to k_max in turn; at K = 0 sigma is sigma0, and everywhere it is finite and
    within [sigma_min, sigma_max], the three rounded to float32 as the search rounds them.
    """
    if dict(zip(table.schema.names, table.schema.types, strict=True)) != TRAJECTORY_COLUMNS:
        raise DdrsError(f"{path}: not a sigma file; its columns must be {', '.join(f'{name} ({kind})' for name, kind in TRAJECTORY_COLUMNS.items())}")
    if any(table[name].null_count for name in TRAJECTORY_COLUMNS):
        raise DdrsError(f"{path}: not a sigma file; it has empty fields")
    idx, steps, sigma = (table[name].to_numpy() for name in TRAJECTORY_COLUMNS)
    settings, length = facts["settings"], int(facts["settings"]["k_max"]) + 1
    images = idx[::length]
    if not len(idx) or not np.array_equal(idx, np.repeat(images, length)) or not np.array_equal(steps, np.tile(np.arange(length), len(images))):
        raise DdrsError(f"{path}: must have every K from 0 to {length - 1} of each image, in turn")
    if len(np.unique(images)) != len(images) or images.min() < 0:
        raise DdrsError(f"{path}: has an image twice, or one of a negative idx")
    low, high, sigma0 = (np.float32(value) for value in (settings["sigma_min"], settings["sigma_max"], facts["sigma0"]))
    wrong = ~((sigma >= low) & (sigma <= high) & np.isfinite(sigma))
    if wrong.any():
        first = int(wrong.argmax())
        raise DdrsError(f"{path}: sigma {sigma[first]} of idx {idx[first]} at K = {steps[first]}: must be within [{low}, {high}]")
    if not (sigma[::length] == sigma0).all():
        raise DdrsError(f"{path}: must have sigma_0 = {sigma0} of every image at K = 0")


def content_digest(table: pa.Table, facts: dict) -> str:
    """The SHA-256 of the columns' values and of all facts of a search, in hex: what `content` must be among the facts beside them."""
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in TRAJECTORY_COLUMNS:
        found.update(np.ascontiguousarray(table[name].to_numpy()).data)
    return found.hexdigest()

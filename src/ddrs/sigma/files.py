"""Reading what `ddrs sigma` wrote. No torch."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ddrs.errors import DdrsError
from ddrs.files import require


def read_sigmas(path: Path, k: int, indices: np.ndarray, made_from: dict[str, str]) -> tuple[dict[int, float], float, str]:
    """sigma* of each image after k steps, sigma_0, and the row of certificates that stand on the search (ds or gds).

    made_from: what the search must have been of (model and data digests, split). DdrsError if the file is damaged, of something else, or
    lacks the step or an image.
    """
    require(path, "sigma file")
    try:
        table = pq.read_table(path, columns=["idx", "K", "sigma_star"], filters=[("K", "=", k)])
        facts = json.loads((table.schema.metadata or {})[b"ddrs"])
        found = dict(zip(table["idx"].to_pylist(), table["sigma_star"].to_pylist(), strict=True))
        sigma0, row, k_max = float(facts["sigma0"]), str(facts["row"]), int(facts["settings"]["k_max"])
        differs = [name for name, value in made_from.items() if facts[name] != value]
    except (pa.ArrowException, KeyError, OSError, ValueError, TypeError) as error:
        raise DdrsError(f"{path}: not a readable sigma file ({' '.join(str(error).split())[:200]})") from None
    if differs:
        raise DdrsError(f"{path}: was searched for another {' and '.join(differs)} than is certified; search again")
    if not found:
        raise DdrsError(f"{path}: has no step K = {k}; it holds 0 to {k_max}")
    missing = [int(i) for i in indices if int(i) not in found]
    if missing:
        raise DdrsError(f"{path}: has no sigma for idx {missing[0]} ({len(missing)} of {len(indices)} images are missing)")
    return found, sigma0, row

"""Datasets in the IDX files of MNIST."""

import gzip
import hashlib
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ddrs.data.requests import Pool, reason, where
from ddrs.errors import DdrsError


def reader_of(kind: str, md5: Mapping[str, str]) -> Callable[[Path | None, Path], dict[str, Pool]]:
    """The pools of a dataset that torchvision calls `kind`, in four IDX files with these MD5 when unpacked.

    torchvision's own checksums are of one packing, and Debian packs the same files anew.
    """

    def read(source: Path | None, download: Path) -> dict[str, Pool]:
        """The four IDX files, from the network or from any folder that holds them, gzipped or not; either way checked against the published MD5."""
        from ddrs.vision import torchvision_datasets

        reader = getattr(torchvision_datasets(), kind)
        root = download
        if source is not None:
            raw = download / kind / "raw"
            raw.mkdir(parents=True, exist_ok=True)
            for name in [Path(name).stem for name, _ in reader.resources]:
                _unpack_idx(source, name, raw / name, md5[name])
        try:
            parts = {train: reader(root, train=train, download=source is None) for train in (True, False)}
            pools = [Pool(part.data.numpy()[:, None], part.targets.numpy().astype(np.int64)) for part in parts.values()]
        except (AssertionError, ValueError, RuntimeError, OSError, KeyError, TypeError) as error:
            raise DdrsError(f"dataset {kind}: {where(source)}: missing, truncated or corrupt ({reason(error)})") from None
        return {"train": pools[0], "test": pools[1]}

    return read


def _unpack_idx(source: Path, name: str, out: Path, md5: str) -> None:
    for found in (source / name, source / f"{name}.gz"):
        if found.is_file():
            try:
                with gzip.open(found) if found.suffix == ".gz" else open(found, "rb") as packed, open(out, "wb") as file:
                    shutil.copyfileobj(packed, file)
            except (OSError, EOFError, zlib.error) as error:
                raise DdrsError(f"{found}: truncated or corrupt ({reason(error)})") from None
            if not has_md5(out, md5):
                raise DdrsError(f"{found}: does not hold the original's data (MD5 {md5} unpacked): truncated or corrupt, or of another dataset")
            return
    raise DdrsError(f"{source}: has neither {name} nor {name}.gz")


def has_md5(path: Path, md5: str) -> bool:
    """Whether a file's bytes are those."""
    return hashlib.md5(path.read_bytes()).hexdigest() == md5

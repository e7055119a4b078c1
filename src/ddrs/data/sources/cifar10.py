"""CIFAR-10, from the network or a folder with its archive."""

import pickle
import tarfile
from pathlib import Path

import numpy as np

from ddrs.data.requests import Pool, Source, reason, where
from ddrs.errors import DdrsError


def _pools(source: Path | None, download: Path) -> dict[str, Pool]:
    """CIFAR-10 in its Python form, checked against torchvision's checksums; a source folder holds the archive or its contents."""
    from ddrs.vision import torchvision_datasets

    datasets = torchvision_datasets()
    reader = datasets.CIFAR10
    root = download
    try:
        if source is not None and (source / reader.base_folder).is_dir():
            root = source
        elif source is not None:
            archive = source / reader.filename
            if not archive.is_file():
                raise DdrsError(f"{source}: has neither {reader.filename} nor {reader.base_folder}/")
            if not datasets.utils.check_integrity(archive, reader.tgz_md5):
                raise DdrsError(f"{archive}: does not have the MD5 {reader.tgz_md5} of the original: truncated or corrupt")
            datasets.utils.extract_archive(str(archive), str(download))
        # never downloads beside a source: what is there is checked, or refused
        parts = {train: reader(root, train=train, download=source is None) for train in (True, False)}
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, tarfile.TarError, pickle.UnpicklingError) as error:
        if isinstance(error, DdrsError):
            raise
        raise DdrsError(f"dataset CIFAR10: {where(source)}: missing, truncated or corrupt ({reason(error)})") from None
    pools = [Pool(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.asarray(part.targets, np.int64)) for part in parts.values()]
    return {"train": pools[0], "test": pools[1]}


SOURCE = Source(_pools, (3, 32, 32), 10, sizes={"train": 50_000, "test": 10_000})

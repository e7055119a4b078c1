"""A result says on which device it was made: no setting of the experiment, but other bytes."""

import json
from pathlib import Path

import pyarrow.parquet as pq

from ddrs.models.checkpoints import read_facts
from ddrs.models.devices import Runtime
from ddrs.sigma.run import search
from ddrs.sigma.settings import SearchSettings


def test_a_model_and_a_search_say_their_device(trained: Path, small_mnist: Path, tmp_path: Path):
    assert read_facts(trained)["device"] == "cpu"
    settings = SearchSettings.checked(k_max=1)
    search(trained, small_mnist, tmp_path / "s.parquet", settings, "test", 2, 0, Runtime.checked(scratch=tmp_path / "scratch"), lambda line: None)
    assert json.loads(pq.read_schema(tmp_path / "s.parquet").metadata[b"ddrs"])["device"] == "cpu"

"""A dataset that was fetched anew leaves no result of the older images unnoticed."""

import json
from pathlib import Path

import pytest
import torch

from ddrs.data.splits import split_digests
from ddrs.errors import DdrsError
from ddrs.experiment.preflight import check_results
from ddrs.models.architectures import build_model
from ddrs.models.checkpoints import load_with_data, save_model
from tests.unit.helpers import certify_files, write_log

pytestmark = pytest.mark.usefixtures("invented_radii")  # bounds are computed again in test_certify_log.py and tests/adversarial

FACTS = {"architecture": "small_cnn", "shape": [1, 28, 28], "classes": 10, "method": "cohen", "regime": "fs", "sigma": 0.25, "noise": "gaussian"}


@pytest.fixture
def results(small_mnist: Path, tmp_path: Path) -> Path:
    """A model, a search, a certificate and a log after the memory, all of the images that are there."""
    digests = split_digests(small_mnist)
    model = tmp_path / "results/models/mnist5k/cohen/fs/sigma_0.25.safetensors"
    save_model(model, build_model("small_cnn", (1, 28, 28), 10), {**FACTS, "data": digests["train"]})
    for split in ("validation", "test"):
        for place, more in (("certificates", {}), ("memory", {"memory": "kept"})):
            path = tmp_path / f"results/{place}/mnist5k/{split}/cohen/ds/sigma_0.25.K_5.tsv"
            write_log(path, [(0, 1, 1, 0.5)], dataset="mnist5k", split=split, data=digests[split], **more)
    return tmp_path / "results"


@pytest.mark.parametrize(
    ("split", "named"),
    [
        ("train", "models/mnist5k/cohen/fs/sigma_0.25.safetensors"),
        ("validation", "certificates/mnist5k/validation/cohen/ds/sigma_0.25.K_5.tsv"),
        ("test", "certificates/mnist5k/test/cohen/ds/sigma_0.25.K_5.tsv"),
    ],
)
def test_results_of_other_images_are_named(split: str, named: str, results: Path, small_mnist: Path, tmp_path: Path):
    manifest = tmp_path / "manifest.json"
    facts = json.loads(small_mnist.read_text())
    manifest.write_text(json.dumps(facts))
    check_results(manifest, "mnist5k", results)
    facts["splits"][split]["images"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(facts))
    with pytest.raises(
        DdrsError,
        match=rf"{named}: was made of other {split} images than those of .*; give the dataset another name, or delete scratch/shards/mnist5k and ",
    ) as error:
        check_results(manifest, "mnist5k", results)
    assert "\n" not in str(error.value)
    check_results(manifest, "another", results)


def test_a_shard_of_other_images_is_named(small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is finished, and waits for the others."""
    monkeypatch.chdir(tmp_path)
    shard = Path("scratch/shards/mnist5k/test/cohen/fs/sigma_0.25/1-of-2.tsv")
    write_log(shard, [(0, 1, 1, 0.5)], dataset="mnist5k", data=split_digests(small_mnist)["test"])
    check_results(small_mnist, "mnist5k")
    write_log(shard, [(0, 1, 1, 0.5)], dataset="mnist5k", data=split_digests(small_mnist)["validation"])
    with pytest.raises(DdrsError, match=rf"{shard}: was made of other test images than those of"):
        check_results(small_mnist, "mnist5k")


def test_what_says_nothing_is_for_its_readers_to_refuse(results: Path, small_mnist: Path, tmp_path: Path):
    """Damaged files, an older form of log, a published model; and no dataset yet."""
    check_results(tmp_path / "none.json", "mnist5k", results)
    (results / "sigmas/mnist5k/test/cohen/fs").mkdir(parents=True)
    (results / "sigmas/mnist5k/test/cohen/fs/sigma_0.25.parquet").touch()
    write_log(results / "certificates/mnist5k/test/cohen/fs/sigma_0.25.tsv", [(0, 1, 1, 0.5)], data="")
    for path in sorted(results.rglob("*.*")):
        for content in (b"", b"\xff\xff\xff\xff\xff\xff\xff\x7f{", b"a\tb\n", b"idx\tlabel\n1\t2\n"):
            path.write_bytes(content)
            check_results(small_mnist, "mnist5k", results)
    save_model(results / "models/mnist5k/cohen/fs/sigma_0.25.safetensors", build_model("small_cnn", (1, 28, 28), 10), FACTS)
    check_results(small_mnist, "mnist5k", results)


def test_no_validation_image_is_certified_that_the_model_may_have_seen(results: Path, small_mnist: Path, tmp_path: Path):
    model = results / "models/mnist5k/cohen/fs/sigma_0.25.safetensors"
    load_with_data(model, small_mnist, "validation", torch.device("cpu"))
    save_model(model, build_model("small_cnn", (1, 28, 28), 10), {**FACTS, "data": "of others"})
    load_with_data(model, small_mnist, "test", torch.device("cpu"))
    with pytest.raises(DdrsError, match="was trained on other images than the train split of"):
        certify_files(model, small_mnist, tmp_path, split="validation")

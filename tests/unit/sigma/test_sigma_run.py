"""The files of the sigma search: what `ddrs sigma` writes and reads, and refuses."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ddrs.data.splits import load_split
from ddrs.errors import DdrsError
from ddrs.models.architectures import build_model
from ddrs.models.checkpoints import load_model, read_facts, save_model
from ddrs.models.devices import Runtime
from ddrs.sigma.run import search
from ddrs.sigma.search import optimize_sigma
from ddrs.sigma.settings import SearchSettings
from ddrs.sigma.stored import read_sigmas

SEARCH = SearchSettings(step_size=0.005, k_max=12, samples=2, batch_size=4)


def run_search(trained: Path, data: Path, folder: Path, say=lambda line: None, settings: SearchSettings = SEARCH, images: int = 6, **more) -> Path:
    out = folder / "sigmas.parquet"
    search(trained, data, out, settings, "test", images, 0, Runtime(scratch=folder, **more), say)
    return out


@pytest.fixture(scope="module")
def sigma_file(trained: Path, small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_search(trained, small_mnist, tmp_path_factory.mktemp("sigmas"))


def test_the_sigma_file_holds_the_trajectory_of_each_image(sigma_file: Path, trained: Path, small_mnist: Path):
    table = pq.read_table(sigma_file)
    assert table.schema.names == ["idx", "K", "sigma_star"] and table.schema.field("sigma_star").type == pa.float32()
    frame = table.to_pandas()
    assert sorted(frame["idx"].unique()) == [0, 5, 10, 15, 20, 25]
    assert frame.groupby("idx")["K"].apply(list).map(lambda steps: steps == list(range(13))).all()
    assert (frame.loc[frame["K"] == 0, "sigma_star"] == 0.25).all()
    split = load_split(small_mnist, "test")
    image = torch.tensor(split.images[15] / np.float32(255))
    expected = optimize_sigma(load_model(trained), image, 0.25, lr=0.005, iterations=12, n=2, split="test", example_ids=[15])
    found = frame[(frame["idx"] == 15) & (frame["K"] == 12)]["sigma_star"].item()
    assert found == pytest.approx(float(expected), abs=1e-6) and abs(found - 0.25) > 1e-3


def test_sigma_files_repeat_byte_for_byte(sigma_file: Path, trained: Path, small_mnist: Path, tmp_path: Path):
    assert run_search(trained, small_mnist, tmp_path, sidecar=tmp_path / "sidecar.json").read_bytes() == sigma_file.read_bytes()
    assert json.loads((tmp_path / "sidecar.json").read_text())["seconds"] >= 0


def test_the_noise_of_the_search_is_the_models_own(trained: Path, small_mnist: Path, tmp_path: Path):
    """A model trained with uniform noise takes saturated steps of 0.96, not 2.05, times the step size."""
    save_model(tmp_path / "uniform.safetensors", load_model(trained), {**read_facts(trained), "noise": "uniform"})
    table = pq.read_table(run_search(tmp_path / "uniform.safetensors", small_mnist, tmp_path))
    assert json.loads(table.schema.metadata[b"ddrs"])["noise"] == "uniform"
    image = torch.tensor(load_split(small_mnist, "test").images[5] / np.float32(255))
    expected = optimize_sigma(load_model(trained), image, 0.25, lr=0.005, iterations=12, n=2, split="test", example_ids=[5], noise="uniform")
    found = table.to_pandas().set_index(["idx", "K"])["sigma_star"][5, 12]
    assert found == pytest.approx(float(expected), abs=1e-6)


def test_a_smaller_k_max_gives_the_same_sigmas_up_to_it(sigma_file: Path, trained: Path, small_mnist: Path, tmp_path: Path):
    short = run_search(trained, small_mnist, tmp_path, settings=SEARCH.model_copy(update={"k_max": 5}))
    indices = np.arange(6) * 5
    for k in (0, 3, 5):
        assert read_sigmas(short, k, indices, {}) == read_sigmas(sigma_file, k, indices, {})


def test_read_sigmas_gives_float32_values_and_sigma0(sigma_file: Path):
    found, sigma0, strategy = read_sigmas(sigma_file, 12, np.array([0, 25]), {})
    assert (sigma0, strategy) == (0.25, "ascent") and set(found) >= {0, 25}
    assert all(np.float32(value) == value for value in found.values())
    table = pq.read_table(sigma_file).to_pandas().set_index(["idx", "K"])["sigma_star"]
    assert found[25] == table[25, 12]


def test_the_search_says_what_changed_class_and_hit_a_bound(trained: Path, small_mnist: Path, tmp_path: Path):
    said: list[str] = []
    settings = SEARCH.model_copy(update={"sigma_max": 0.26, "step_size": 0.05})
    path = run_search(trained, small_mnist, tmp_path, said.append, settings)
    facts = json.loads(pq.read_table(path).schema.metadata[b"ddrs"])
    assert f"{facts['changed_class']} of 6 images change class between sigma_0 = 0.25 and sigma* at K = 12" in said
    assert any(line.startswith(f"{facts['at_min']} touched sigma_min = 0.001, {facts['at_max']} touched sigma_max = 0.26") for line in said)
    touched = pq.read_table(path).to_pandas().groupby("idx")["sigma_star"].max() >= np.float32(0.26)
    assert facts["at_max"] == touched.sum() >= 1


@pytest.mark.parametrize("k", [13, 1000, -1])
def test_a_step_beyond_the_trajectory_is_one_line(k: int, sigma_file: Path):
    with pytest.raises(DdrsError, match=f"has no step K = {k}; it holds 0 to 12") as error:
        read_sigmas(sigma_file, k, np.array([0]), {})
    assert str(sigma_file) in str(error.value) and "\n" not in str(error.value)


def test_an_image_without_sigma_is_one_line(sigma_file: Path):
    with pytest.raises(DdrsError, match=r"has no sigma for idx 3 \(2 of 4 images are missing\)") as error:
        read_sigmas(sigma_file, 12, np.array([0, 3, 5, 7]), {})
    assert str(sigma_file) in str(error.value)


def damaged(path: Path, kind: str, tmp_path: Path) -> Path:
    out = tmp_path / "damaged.parquet"
    table = pq.read_table(path)
    if kind == "absent":
        return out
    if kind == "truncated":
        out.write_bytes(path.read_bytes()[:-20])
    elif kind == "empty":
        out.write_bytes(b"")
    elif kind == "text":
        out.write_bytes(b"idx,K,sigma_star\n0,0,0.25\n")
    elif kind == "flipped":
        data = bytearray(path.read_bytes())
        data[4:60] = bytes(56)
        out.write_bytes(data)
    elif kind == "without metadata":
        pq.write_table(table.replace_schema_metadata(None), out)
    else:
        pq.write_table(table.drop_columns(kind.removeprefix("without ")), out)
    return out


@pytest.mark.parametrize(
    "kind", ["absent", "truncated", "empty", "text", "flipped", "without metadata", "without K", "without idx", "without sigma_star"]
)
def test_a_damaged_sigma_file_is_one_line(kind: str, sigma_file: Path, tmp_path: Path):
    path = damaged(sigma_file, kind, tmp_path)
    with pytest.raises(DdrsError) as error:
        read_sigmas(path, 12, np.array([0]), {})
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_model_that_does_not_fit_the_data_or_start_is_one_line(small_mnist: Path, trained: Path, tmp_path: Path):
    other = build_model("small_cnn", (3, 32, 32), 10)
    save_model(tmp_path / "other.safetensors", other, {**read_facts(trained), "shape": [3, 32, 32]})
    with pytest.raises(DdrsError, match="image shape"):
        run_search(tmp_path / "other.safetensors", small_mnist, tmp_path)
    with pytest.raises(DdrsError, match=r"sigma0 = 0.25: must be within"):
        run_search(trained, small_mnist, tmp_path, settings=SEARCH.model_copy(update={"sigma_max": 0.2}))
    with pytest.raises(DdrsError, match="31 images of mnist5k test: the split has 30"):
        run_search(trained, small_mnist, tmp_path, images=31)
    assert not (tmp_path / "sigmas.parquet").exists()

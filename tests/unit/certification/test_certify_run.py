"""`ddrs certify`: the log that it writes, and that a killed run ends with the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ddrs.certification.engine import certify as certify_images
from ddrs.certification.records import LOG_COLUMNS, read_log
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.data.splits import as_float, load_split
from ddrs.errors import DdrsError
from ddrs.models.checkpoints import load_model, read_facts, save_model
from ddrs.models.devices import Runtime
from ddrs.sections import flags
from ddrs.sigma.run import search
from ddrs.sigma.settings import SearchSettings
from ddrs.sigma.stored import read_sigmas
from tests.unit.helpers import certify_files as run

SETTINGS = ImageCertificateSettings(n0=20, n=300, alpha=0.001)


@pytest.fixture(scope="module")
def whole(trained: Path, small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The log of an uninterrupted run."""
    return run(trained, small_mnist, tmp_path_factory.mktemp("whole")).read_bytes()


@pytest.fixture(scope="module")
def sigma_file(trained: Path, small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sigmas")
    settings = SearchSettings(step_size=0.005, k_max=10)
    search(trained, small_mnist, folder / "sigmas.parquet", settings, "test", 6, 0, Runtime(scratch=folder), lambda line: None)
    return folder / "sigmas.parquet"


def partial_file(folder: Path) -> Path:
    return max((folder / "scratch").glob("certify-*.tsv"), key=lambda path: path.stat().st_mtime_ns)


def interrupted(trained: Path, data: Path, folder: Path, after: int, **more) -> Path:
    """Stop a run after some images, by an exception; gives its partial file."""
    written = []

    class StoppedError(Exception):
        pass

    def say(line: str) -> None:
        if line.startswith(f"{after}/"):
            written.append(partial_file(folder).read_bytes())
            raise StoppedError

    with pytest.raises(StoppedError):
        run(trained, data, folder, say, **more)
    assert not (folder / "log.tsv").exists()
    partial = partial_file(folder)
    assert partial.read_bytes() == written[0], "each line is in the file as soon as it is finished"
    return partial


# the log


def test_the_log_has_one_line_per_image_and_the_columns_of_the_field(whole: bytes, small_mnist: Path):
    lines = [line.split("\t") for line in whole.decode().splitlines()]
    assert lines[0][:5] == ["idx", "label", "predict", "radius", "correct"] and tuple(lines[0]) == LOG_COLUMNS
    assert "time" not in lines[0]
    split = load_split(small_mnist, "test")
    assert [int(line[0]) for line in lines[1:]] == [0, 5, 10, 15, 20, 25]
    assert [int(line[1]) for line in lines[1:]] == split.labels[::5].tolist()
    first = dict(zip(lines[0], lines[1], strict=True))
    expected = {"sigma": "0.25", "n0": "20", "n": "300", "alpha": "0.001", "noise": "lattice", "dataset": "mnist5k", "split": "test"}
    assert {name: first[name] for name in expected} == expected
    assert (first["method"], first["sigma0"], first["K"], first["seed"]) == ("cohen", "0.25", "", "0")


@pytest.mark.parametrize("noise", ["lattice", "gaussian"])
def test_the_log_is_what_the_python_api_certifies(noise: str, trained: Path, small_mnist: Path, tmp_path: Path):
    settings = SETTINGS.model_copy(update={"noise": noise})
    table, split = read_log(run(trained, small_mnist, tmp_path, settings=settings)).table, load_split(small_mnist, "test")
    x = torch.tensor(as_float(split.images[table["idx"]]))
    ids = [int(i) for i in table["idx"]]
    found = certify_images(load_model(trained), x, 0.25, 20, 300, 0.001, split="test", example_ids=ids, noise=noise)
    assert set(table["noise"]) == set(found.noise) == {noise}
    assert table["predict"].tolist() == found.prediction.tolist()
    assert table["n_top"].tolist() == found.n_top.tolist() and table["n_top"].nunique() > 3
    assert np.all(table["radius"] <= found.radius) and np.allclose(table["radius"], found.radius, atol=1e-6)
    assert np.all(table["p_lower"] <= found.p_lower) and np.allclose(table["p_lower"], found.p_lower, atol=1e-12)
    assert np.all(table["off_grid"] >= found.off_grid) and np.allclose(table["off_grid"], found.off_grid, atol=1e-12)
    assert (found.off_grid > 0).all() if noise == "gaussian" else (table["off_grid"] == 0).all()
    assert table["correct"].tolist() == (found.prediction == split.labels[table["idx"]]).astype(int).tolist()
    assert table["radius"].max() > 0.1 and table["correct"].sum() >= 2


def test_data_dependent_logs_take_each_images_sigma_at_step_k(trained: Path, small_mnist: Path, sigma_file: Path, tmp_path: Path):
    table = read_log(run(trained, small_mnist, tmp_path, sigma=None, sigmas=sigma_file, k=7)).table
    expected, *_ = read_sigmas(sigma_file, 7, table["idx"].to_numpy(), {})
    assert [np.float32(value) for value in table["sigma"]] == [np.float32(expected[i]) for i in table["idx"]]
    assert table["sigma"].nunique() > 1
    assert table["K"].tolist() == ["7"] * 6 and set(table["method"]) == {"cohen-ds"} and set(table["sigma0"]) == {0.25}


def test_a_sigma_file_of_another_model_or_split_is_refused(trained: Path, small_mnist: Path, sigma_file: Path, tmp_path: Path):
    """Else the log would state K and sigma_0 of images that were never searched."""
    other = tmp_path / "other.safetensors"
    save_model(other, load_model(trained), {**read_facts(trained), "seed": 99})
    with pytest.raises(DdrsError, match="another model"):
        run(other, small_mnist, tmp_path, sigma=None, sigmas=sigma_file, k=7)
    with pytest.raises(DdrsError, match="another data and split"):
        run(trained, small_mnist, tmp_path, sigma=None, sigmas=sigma_file, k=7, split="validation", images=4)


def test_a_fixed_sigma_on_a_ds2_model_is_no_row_of_the_paper(trained: Path, small_mnist: Path, tmp_path: Path):
    ds2 = tmp_path / "ds2.safetensors"
    save_model(ds2, load_model(trained), {**read_facts(trained), "regime": "ds2"})
    assert set(read_log(run(ds2, small_mnist, tmp_path)).table["method"]) == {"cohen-ds2-fixed"}


def test_batch_size_and_number_of_images_change_no_line(whole: bytes, trained: Path, small_mnist: Path, tmp_path: Path):
    assert run(trained, small_mnist, tmp_path / "a", batch_size=37).read_bytes() == whole
    more = run(trained, small_mnist, tmp_path / "b", images=30).read_bytes().splitlines()
    size = [LOG_COLUMNS.index(name) for name in ("examples", "check")]  # which say of how many images the log is

    def rest(line: bytes) -> list[bytes]:
        return [field for i, field in enumerate(line.split(b"\t")) if i not in size]

    assert [rest(more[1 + i]) for i in range(0, 30, 5)] == [rest(line) for line in whole.splitlines()[1:]]


def test_a_partial_log_of_another_number_of_images_is_not_resumed(trained: Path, small_mnist: Path, tmp_path: Path):
    """Its lines say of how many they are."""

    class StoppedError(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("2/"):
            raise StoppedError

    with pytest.raises(StoppedError):
        run(trained, small_mnist, tmp_path, stop)
    assert len(read_log(run(trained, small_mnist, tmp_path, images=3)).table) == 3


def test_seed_split_and_budget_change_the_digest_and_the_samples(whole: bytes, trained: Path, small_mnist: Path, tmp_path: Path):
    def column(log: bytes, name: str) -> list[str]:
        lines = [line.split("\t") for line in log.decode().splitlines()]
        return [line[lines[0].index(name)] for line in lines[1:]]

    seeds = run(trained, small_mnist, tmp_path / "seed", seed=1).read_bytes()
    assert column(seeds, "digest") != column(whole, "digest") and column(seeds, "n_top") != column(whole, "n_top")
    alpha = run(trained, small_mnist, tmp_path / "alpha", settings=SETTINGS.model_copy(update={"alpha": 0.01})).read_bytes()
    assert column(alpha, "digest") != column(whole, "digest") and column(alpha, "n_top") == column(whole, "n_top")


@pytest.fixture
def of_uniform(trained: Path, tmp_path: Path) -> Path:
    """A model that says that it was trained with uniform noise."""
    save_model(tmp_path / "uniform.safetensors", load_model(trained), {**read_facts(trained), "noise": "uniform"})
    return tmp_path / "uniform.safetensors"


@pytest.mark.parametrize(("asked", "found"), [(None, "uniform-lattice"), ("lattice", "uniform-lattice"), ("uniform", "uniform")])
def test_the_noise_of_a_certificate_is_of_the_models_own_law(asked: str | None, found: str, of_uniform: Path, small_mnist: Path, tmp_path: Path):
    """By default on the pixel grid; for a model of Gaussian noise that is "lattice" (above)."""
    settings = ImageCertificateSettings(**{"n0": 20, "n": 300, "alpha": 0.001, **({"noise": asked} if asked else {})})  # type: ignore[arg-type]
    table, split = read_log(run(of_uniform, small_mnist, tmp_path, settings=settings)).table, load_split(small_mnist, "test")
    x, ids = torch.tensor(as_float(split.images[table["idx"]])), [int(i) for i in table["idx"]]
    expected = certify_images(load_model(of_uniform), x, 0.25, 20, 300, 0.001, noise=found, split="test", example_ids=ids)
    assert set(table["noise"]) == {found} and np.allclose(table["radius"], expected.radius, atol=1e-6)
    assert table["n_top"].tolist() == expected.n_top.tolist()
    assert 0 < table["radius"].max() <= 0.25


@pytest.mark.parametrize(("asked", "trained_with"), [("uniform", "gaussian"), ("gaussian", "uniform")])
def test_noise_of_another_law_than_the_models_own_is_refused(
    asked: str, trained_with: str, trained: Path, of_uniform: Path, small_mnist: Path, tmp_path: Path
):
    model = of_uniform if trained_with == "uniform" else trained
    with pytest.raises(DdrsError, match=f"^noise '{asked}': .* was trained with {trained_with} noise; certify it with {trained_with} or lattice$"):
        run(model, small_mnist, tmp_path, settings=SETTINGS.model_copy(update={"noise": asked}))
    assert not (tmp_path / "log.tsv").exists()


# resumption


@pytest.mark.parametrize("after", [1, 3, 6])
def test_an_interrupted_run_resumes_to_equal_bytes(after: int, whole: bytes, trained: Path, small_mnist: Path, tmp_path: Path):
    partial = interrupted(trained, small_mnist, tmp_path, after)
    assert partial.read_bytes() == b"".join(whole.splitlines(keepends=True)[: after + 1])
    said: list[str] = []
    assert run(trained, small_mnist, tmp_path, said.append).read_bytes() == whole
    assert said[0] == f"resuming: {after} images are in {partial}"
    assert [line for line in said if line.startswith(("1/", f"{after}/"))] == [], "finished images are not done again"
    assert not partial.exists()


@pytest.mark.parametrize("cut", [1, 2, 15, 60])
def test_a_torn_last_line_is_done_again(cut: int, whole: bytes, trained: Path, small_mnist: Path, tmp_path: Path):
    partial = interrupted(trained, small_mnist, tmp_path, 3)
    partial.write_bytes(partial.read_bytes()[:-cut])
    said: list[str] = []
    assert run(trained, small_mnist, tmp_path, said.append).read_bytes() == whole
    assert said[0].startswith("resuming: 2 images")


@pytest.mark.parametrize("keep", [0, 10], ids=["empty", "half a header"])
def test_a_partial_file_torn_in_its_header_is_begun_again(keep: int, whole: bytes, trained: Path, small_mnist: Path, tmp_path: Path):
    partial = interrupted(trained, small_mnist, tmp_path, 1)
    partial.write_bytes(partial.read_bytes()[:keep])
    interrupted(trained, small_mnist, tmp_path, 3)  # and stopped a second time
    assert run(trained, small_mnist, tmp_path).read_bytes() == whole


@pytest.mark.parametrize("line", [b"garbage\n", b"\x00" * 40 + b"\n", b"\xff\xfe\n", b"15\t3\n"], ids=["text", "zeros", "bytes", "short"])
def test_a_damaged_partial_file_never_reaches_the_log(line: bytes, whole: bytes, trained: Path, small_mnist: Path, tmp_path: Path):
    """As after a power failure: either the line is done again, or one line names the file."""
    partial = interrupted(trained, small_mnist, tmp_path, 3)
    partial.write_bytes(partial.read_bytes() + line)
    try:
        log = run(trained, small_mnist, tmp_path)
    except DdrsError as error:
        assert str(partial) in str(error) and "\n" not in str(error)
        assert not (tmp_path / "log.tsv").exists()
    else:
        assert log.read_bytes() == whole


def test_a_partial_file_of_another_configuration_is_not_used(whole: bytes, trained: Path, small_mnist: Path, sigma_file: Path, tmp_path: Path):
    others = (
        {"seed": 1},
        {"sigma": 0.3},
        {"settings": SETTINGS.model_copy(update={"n": 301})},
        {"settings": SETTINGS.model_copy(update={"alpha": 0.01})},
        {"split": "validation"},
        {"sigma": None, "sigmas": sigma_file, "k": 0},
    )
    for number, other in enumerate(others):
        interrupted(trained, small_mnist, tmp_path / "one", 3, **other)
        assert len(list((tmp_path / "one" / "scratch").iterdir())) == number + 1
    said: list[str] = []
    assert run(trained, small_mnist, tmp_path / "one", said.append).read_bytes() == whole
    assert not any("resuming" in line for line in said)


def test_a_partial_file_under_another_runs_name_is_one_line(trained: Path, small_mnist: Path, tmp_path: Path):
    """As after copying scratch folders together: it is neither used nor lost."""
    wanted = interrupted(trained, small_mnist, tmp_path / "one", 3)
    other = interrupted(trained, small_mnist, tmp_path / "two", 3, seed=1)
    content = other.read_bytes()
    wanted.write_bytes(content)
    with pytest.raises(DdrsError, match=r"certify-\w+\.tsv: a partial log of another configuration \(\w{16}, not \w{16}\)") as error:
        run(trained, small_mnist, tmp_path / "one")
    assert "\n" not in str(error.value)
    assert wanted.read_bytes() == content and not (tmp_path / "one" / "log.tsv").exists()


@pytest.mark.parametrize("protocol", [{"protocol": "fixed"}, {"protocol": "sequential", "radii": [0.0, 0.1, 0.25, 0.4]}], ids=["fixed", "sequential"])
def test_a_run_killed_by_sigkill_resumes_to_equal_bytes(protocol: dict, trained: Path, small_mnist: Path, tmp_path: Path):
    settings = ImageCertificateSettings(n0=20, n=2000, **protocol)
    words = [sys.executable, "-m", "ddrs", "certify", "--model", trained, "--data", small_mnist, "--sigma", "0.25", "--out", tmp_path / "log.tsv"]
    words += [*flags(settings).split(), "--images", "30", "--scratch", tmp_path / "scratch", "--batch-size", "64"]
    with subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while sum(path.read_bytes().count(b"\n") for path in (tmp_path / "scratch").glob("certify-*.tsv")) < 4:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "log.tsv").exists()
    said: list[str] = []
    log = run(trained, small_mnist, tmp_path, said.append, settings, images=30)
    assert 3 <= int(said[0].split()[1]) < 30 and said[0].startswith("resuming")
    assert log.read_bytes() == run(trained, small_mnist, tmp_path / "whole", settings=settings, images=30).read_bytes()


# beside the log


def test_times_and_the_sidecar_are_files_of_their_own(whole: bytes, trained: Path, small_mnist: Path, tmp_path: Path):
    times, sidecar = tmp_path / "logs" / "times.tsv", tmp_path / "logs" / "sidecar.json"
    assert run(trained, small_mnist, tmp_path, times=times, sidecar=sidecar).read_bytes() == whole
    lines = [line.split("\t") for line in times.read_text().splitlines()]
    assert lines[0] == ["idx", "seconds"] and [int(line[0]) for line in lines[1:]] == [0, 5, 10, 15, 20, 25]
    assert all(float(line[1]) > 0 for line in lines[1:])
    facts = json.loads(sidecar.read_text())
    assert facts["settings"]["n"] == 300 and facts["packages"]["torch"] == torch.__version__ and facts["seconds"] > 0
    assert facts["inputs"]["model"] == str(trained)


def test_without_a_path_no_times_or_sidecar_are_written(trained: Path, small_mnist: Path, tmp_path: Path):
    run(trained, small_mnist, tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["log.tsv", "scratch"]


# errors


@pytest.mark.parametrize(
    "given",
    [
        {"sigma": None},
        {"sigma": 0.25, "sigmas": Path("s.parquet"), "k": 3},
        {"sigma": None, "sigmas": Path("s.parquet")},
        {"sigma": 0.25, "k": 3},
        {"sigma": None, "k": 3},
    ],
    ids=["neither", "both", "sigmas without k", "sigma with k", "k alone"],
)
def test_either_sigma_or_sigmas_with_k_is_given(given: dict, trained: Path, small_mnist: Path, tmp_path: Path):
    with pytest.raises(DdrsError, match="give either --sigma, or --sigmas with --k") as error:
        run(trained, small_mnist, tmp_path, **given)
    assert "\n" not in str(error.value) and not (tmp_path / "log.tsv").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sigma": 0.0}, "sigma = 0.0: must be a finite number > 0"),
        ({"sigma": -1.0}, "sigma = -1.0: must be a finite number > 0"),
        ({"sigma": float("inf")}, "sigma = inf: must be a finite number > 0"),
        ({"split": "tset"}, "has no split 'tset'; known are train, validation, test"),
        ({"images": 31}, "31 images of mnist5k test: the split has 30"),
    ],
)
def test_arguments_out_of_range_are_one_line(given: dict, message: str, trained: Path, small_mnist: Path, tmp_path: Path):
    (tmp_path / "log.tsv").write_text("an older log")
    with pytest.raises(DdrsError, match=message) as error:
        run(trained, small_mnist, tmp_path, **given)
    assert "\n" not in str(error.value)
    assert (tmp_path / "log.tsv").read_text() == "an older log"


def test_a_step_that_the_trajectory_lacks_is_one_line(trained: Path, small_mnist: Path, sigma_file: Path, tmp_path: Path):
    with pytest.raises(DdrsError, match="has no step K = 11; it holds 0 to 10"):
        run(trained, small_mnist, tmp_path, sigma=None, sigmas=sigma_file, k=11)


def test_an_image_that_was_not_searched_is_one_line(trained: Path, small_mnist: Path, sigma_file: Path, tmp_path: Path):
    with pytest.raises(DdrsError, match=r"has no sigma for idx 1 \(24 of 30 images are missing\)"):
        run(trained, small_mnist, tmp_path, sigma=None, sigmas=sigma_file, k=3, images=None)


@pytest.mark.parametrize("other", ["split", "model"])
def test_sigmas_of_another_split_or_model_are_refused(other: str, trained: Path, small_mnist: Path, tmp_path: Path):
    """Their idx would match, so the log would say K steps from sigma0 for images that were never searched."""
    model, split = trained, "test"
    if other == "split":
        split = "train"
    else:
        model = tmp_path / "other.safetensors"
        save_model(model, load_model(trained), {**read_facts(trained), "seed": 99})
    settings, out = SearchSettings(step_size=0.005, k_max=3), tmp_path / "sigmas.parquet"
    search(model, small_mnist, out, settings, split, None, 0, Runtime(scratch=tmp_path), lambda line: None)
    with pytest.raises(DdrsError) as error:
        run(trained, small_mnist, tmp_path, sigma=None, sigmas=out, k=3, images=4)
    assert str(out) in str(error.value) and "\n" not in str(error.value)

"""Published checkpoints: the imported model is the published one, and what is not exactly of its format is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ddrs
from ddrs.data.splits import as_float, load_split
from ddrs.models.checkpoints import load_model, read_facts, save_model
from ddrs.models.rowwise import check_rows_alone
from ddrs.operations.probe import Network
from ddrs.provenance.digests import file_digest
from tests.unit.models.published_models import CIFAR, IMAGENET, CifarResNet, Normalize, PapersResNet18, published_model, saved_as, write_published
from tests.unit.operations.test_plan import last

Cli = Callable[..., tuple[int, str, str]]
STATED = {"smoothing-adversarial cifar10": "center", "ddrs imagenet": "center"}  # what these files leave open
METHOD = {"locuslab": "cohen", "smoothing-adversarial": "smoothadv", "macer": "macer", "ddrs": "cohen"}
RECORDED = {
    "locuslab cifar10": {"kind": "normalize", "mean": CIFAR[0], "sd": CIFAR[1]},
    "locuslab imagenet": {"kind": "normalize", "mean": IMAGENET[0], "sd": IMAGENET[1]},
    "smoothing-adversarial cifar10": {"kind": "center", "mean": CIFAR[0]},
    "macer cifar10": {"kind": "none"},
    "ddrs cifar10": {"kind": "normalize", "mean": CIFAR[0], "sd": CIFAR[1]},
    "ddrs imagenet": {"kind": "center", "mean": IMAGENET[0]},
}


def words(file: Path, out: Path, name: str, *more: str) -> list[object]:
    form, dataset = name.split()
    stated = ["--preprocessing", STATED[name]] if name in STATED and "--preprocessing" not in more else []
    flags = ["--format", form, "--dataset", dataset, "--method", METHOD[form], "--sigma", "0.25", *stated, *more]
    return ["import-checkpoint", file, "--out", out, *flags]


def imported(cli: Cli, file: Path, name: str, *more: str) -> Path:
    out = file.with_suffix(".safetensors")
    code, _, error = cli(*words(file, out, name, *more))
    assert (code, error) == (0, "")
    return out


def scores_of(name: str, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the published model gives, where it gives probabilities as their logarithms."""
    with torch.no_grad():
        return model(x).log() if name.startswith("ddrs") else model(x)


def same_scores(name: str, ours: nn.Module, theirs: nn.Module, x: torch.Tensor) -> bool:
    """Equal but for float32 rounding; logarithms of a softmax leave a constant per image open."""
    with torch.no_grad():
        found = ours(x).log_softmax(1) if name.startswith("ddrs") else ours(x)
    expected = scores_of(name, theirs, x)
    assert float(expected.std()) > 0.01
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.max() - expected.min()))


@pytest.mark.parametrize("name", RECORDED)
def test_the_imported_model_is_the_published_one(name: str, tmp_path: Path, ddrs_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    if "imagenet" in name:  # the check before any use is of test_rowwise.py, and takes 64 images
        monkeypatch.setattr("ddrs.training.importing.check_rows_alone", lambda model, images: check_rows_alone(model, images[..., :64, :64]))
    theirs = write_published(tmp_path / "checkpoint.pth.tar", name)
    out = imported(ddrs_cli, tmp_path / "checkpoint.pth.tar", name)
    side = 224 if "imagenet" in name else 32
    x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    ours = load_model(out)
    assert same_scores(name, ours, theirs, x)
    if hasattr(ours, "net"):
        assert not same_scores(name, ours.net, theirs, x)  # the comparison sees the preprocessing
    facts, (form, dataset) = read_facts(out), name.split()
    assert facts["preprocessing"] == RECORDED[name] and facts["origin"]["format"] == form
    assert (facts["dataset"], facts["method"], facts["regime"], facts["sigma"], facts["noise"]) == (dataset, METHOD[form], "fs", 0.25, "gaussian")
    assert facts["origin"]["outputs"] == ("probabilities" if form == "ddrs" else "scores")


def test_softmax_of_the_scores_is_the_published_output(tmp_path: Path, ddrs_cli: Cli) -> None:
    theirs = write_published(tmp_path / "c.pth", "ddrs cifar10")
    ours, x = load_model(imported(ddrs_cli, tmp_path / "c.pth", "ddrs cifar10")), torch.rand(16, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(ours(x).softmax(1), theirs(x), atol=1e-6) and torch.equal(ours(x).argmax(1), theirs(x).argmax(1))


@pytest.mark.parametrize("name", ["locuslab cifar10", "macer cifar10", "ddrs cifar10"])
@pytest.mark.parametrize("form", ["parallel", "old"])
def test_dataparallel_and_old_files_are_the_same_model(form: str, name: str, tmp_path: Path, ddrs_cli: Cli) -> None:
    """Saved with DataParallel around the whole, or by an old torch: not as a zip archive, and without BatchNorm's counters."""
    file, model = tmp_path / "c.pth", published_model(name)
    content = saved_as(name, model)
    key = "net" if "net" in content else "state_dict"
    if form == "parallel":
        content[key] = nn.DataParallel(model).state_dict()
        assert all(one.startswith("module.") for one in content[key])
    else:
        content[key] = {one: value for one, value in content[key].items() if not one.endswith("num_batches_tracked")}
    torch.save(content, file, _use_new_zipfile_serialization=form == "parallel")
    assert same_scores(name, load_model(imported(ddrs_cli, file, name)), model, torch.rand(4, 3, 32, 32))


def test_an_import_repeats_byte_for_byte_and_leaves_a_sidecar(tmp_path: Path, ddrs_cli: Cli) -> None:
    write_published(tmp_path / "c.pth", "ddrs cifar10")
    first = imported(ddrs_cli, tmp_path / "c.pth", "ddrs cifar10").read_bytes()
    assert imported(ddrs_cli, tmp_path / "c.pth", "ddrs cifar10", "--sidecar", str(tmp_path / "s.json")).read_bytes() == first
    assert json.loads((tmp_path / "s.json").read_text())["inputs"] == {"file": str(tmp_path / "c.pth")}


def test_a_certificate_and_a_sigma_are_those_of_the_published_model(tmp_path: Path, ddrs_cli: Cli) -> None:
    """The log of the published probabilities, as scores: their softmax is what OptimizeSigma ascends."""
    theirs = write_published(tmp_path / "c.pth", "ddrs cifar10")
    ours, image = load_model(imported(ddrs_cli, tmp_path / "c.pth", "ddrs cifar10")), torch.rand(3, 32, 32)

    class Log(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return theirs(x).log()

    found = [ddrs.certify(model, image, 0.25, n0=20, n=200, alpha=0.001) for model in (ours, theirs)]
    assert int(found[0].prediction) == int(found[1].prediction) and float(found[0].radius) == pytest.approx(float(found[1].radius), abs=0.02)
    sigmas = [float(ddrs.optimize_sigma(model, image, sigma0=0.25, lr=1e-2, iterations=5, n=2)) for model in (ours, Log())]
    assert sigmas[0] == pytest.approx(sigmas[1], abs=1e-5) and abs(sigmas[0] - 0.25) > 1e-4


def write_data(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    """A fetched dataset of the same images in every split; its manifest."""
    folder.mkdir()
    files = {}
    for part, array in (("images", images), ("labels", labels)):
        np.save(folder / f"{part}.npy", array)
        files[part] = {"file": f"{part}.npy", "sha256": file_digest(folder / f"{part}.npy")}
    splits = {split: {"count": len(labels), **files} for split in ("train", "validation", "test")}
    manifest = {"dataset": "cifar10", "kind": "cifar10", "shape": list(images.shape[1:]), "classes": 10, "splits": splits}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder / "manifest.json"


def test_an_imported_model_is_tuned_searched_and_certified(tmp_path: Path, ddrs_cli: Cli) -> None:
    """Every step behind training takes it, and a model tuned from it is behind the same preprocessing."""
    images = np.random.default_rng(0).integers(0, 256, (24, 3, 32, 32), np.uint8)
    data = write_data(tmp_path / "data", images, np.arange(24) % 10)
    write_published(tmp_path / "c.pth", "ddrs cifar10")
    model, tuned = imported(ddrs_cli, tmp_path / "c.pth", "ddrs cifar10"), tmp_path / "ds2.safetensors"
    scratch = ["--scratch", tmp_path / "scratch"]
    tuning = ["--epochs", 1, "--batch-size", 8, "--learning-rate", 0.001]
    steps = [
        ["finetune", "--data", data, "--model", model, "--out", tuned, *tuning],
        ["sigma", "--model", tuned, "--data", data, "--out", tmp_path / "s.parquet", "--images", 2, "--k-max", 3],
        ["certify", "--model", tuned, "--data", data, "--sigmas", tmp_path / "s.parquet", "--k", 3, "--out", tmp_path / "log.tsv", "--images", 2],
    ]
    for step in steps:
        certified = ["--n", 50, "--n0", 10, "--batch-size", 10] if step[0] == "certify" else []
        code, _, error = ddrs_cli(*step, *certified, *scratch)
        assert (code, error) == (0, ""), step[0]
    assert len((tmp_path / "log.tsv").read_text().splitlines()) == 3
    facts, before = read_facts(tuned), read_facts(model)
    assert facts["regime"] == "ds2" and facts["preprocessing"] == before["preprocessing"] == RECORDED["ddrs cifar10"]
    x = torch.tensor(as_float(load_split(data, "test").images[:4]))
    with torch.no_grad():
        mean, sd = (torch.tensor(values).view(3, 1, 1) for values in CIFAR)
        assert torch.equal(load_model(tuned)(x), load_model(tuned).net((x - mean) / sd))
        assert not torch.allclose(load_model(tuned)(x), load_model(model)(x), atol=1e-3)
    save_model(tmp_path / "again.safetensors", load_model(tuned), facts)
    assert (tmp_path / "again.safetensors").read_bytes() == tuned.read_bytes()


def test_a_plan_knows_the_network_before_there_is_a_file() -> None:
    flags = "--dataset imagenet --method cohen --sigma 0.25 --out fs.safetensors --format locuslab"
    work = last(f"import-checkpoint c.pth {flags}", "certify --model fs.safetensors --data d.json --sigma 0.25 --out c.tsv --images 5 --n0 10 --n 90")
    assert work.network == Network("resnet50", (3, 224, 224), 1000) and work.samples == 500


SMALL = saved_as("ddrs cifar10", published_model("ddrs cifar10"), momenta=False)
LARGE = saved_as("locuslab cifar10", published_model("locuslab cifar10"), momenta=False)
NESTED: list = [0]
for _ in range(40):  # a few hundred bytes in a file, a million million as text
    NESTED = [NESTED, NESTED]


def changed(content: dict[str, Any], **weights: torch.Tensor | None) -> dict[str, Any]:
    """A published file with some weights replaced, added, or (None) removed; `__` stands for a dot."""
    held = dict(content["state_dict"])
    for name, value in weights.items():
        held.pop(name.replace("__", "."), None)
        if value is not None:
            held[name.replace("__", ".")] = value
    return {**content, "state_dict": held}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ddrs cifar10", changed(SMALL, fc__bias=None), "not the weights of resnet18_ddrs, which format ddrs has here: 1 missing, as fc.bias"),
        ("ddrs cifar10", changed(SMALL, bn1__weight=torch.ones(64)), "1 that it has not, as bn1.weight"),
        ("ddrs cifar10", changed(SMALL, fc__weight=torch.ones(100, 512), fc__bias=torch.ones(100)), "a model for 100 classes, not 10"),
        (
            "ddrs cifar10",
            changed(SMALL, conv1__weight=torch.ones(64, 3, 3, 3)),
            "conv1.weight is float32 (64, 3, 3, 3); resnet18_ddrs has float32 (64,",
        ),
        ("ddrs cifar10", changed(SMALL, fc__bias=torch.ones(10).half()), "fc.bias is float16 (10,); resnet18_ddrs has float32 (10,)"),
        ("ddrs cifar10", changed(SMALL, fc__bias=torch.full((10,), torch.nan)), "fc.bias has values that are not finite"),
        ("ddrs cifar10", LARGE, "not the weights of resnet18_ddrs"),
        ("locuslab cifar10", SMALL, "its arch is None; models of format locuslab for cifar10 are 'cifar_resnet110'"),
        ("locuslab cifar10", {**LARGE, "arch": NESTED}, "its arch is no text but a list; models of format locuslab for cifar10 are"),
        ("locuslab cifar10", {**LARGE, "arch": torch.ones(9, 9)}, "its arch is no text but a Tensor; models of format locuslab"),
        ("locuslab cifar10", {**LARGE, "arch": "resnet50"}, "its arch is 'resnet50'; models of format locuslab for cifar10 are 'cifar_resnet110'"),
        (
            "locuslab cifar10",
            changed(LARGE, **{"0__means": torch.ones(3)}),
            "has a weight 0.means; all weights of format locuslab start with '1.' here",
        ),
        (
            "locuslab cifar10",
            {**LARGE, "state_dict": CifarResNet(20).state_dict()},
            "has a weight conv1.weight; all weights of format locuslab start",
        ),
        (
            "locuslab cifar10",
            {**LARGE, "state_dict": nn.Sequential(Normalize(*CIFAR), CifarResNet(20)).state_dict()},
            "not the weights of resnet110, which format locuslab has here: 450 missing, as layer1.3.conv1.weight",
        ),
        ("macer cifar10", SMALL, "has no state dict 'net' of named dense tensors, as files of format macer have; it holds epoch"),
        ("ddrs cifar10", {"state_dict": PapersResNet18}, "refused: holds "),
        ("ddrs cifar10", {"state_dict": {}}, "has no state dict 'state_dict'"),
        ("ddrs cifar10", {"state_dict": {"fc.weight": [1.0]}}, "has no state dict 'state_dict'"),
        ("ddrs cifar10", {"state_dict": {0: torch.ones(2)}}, "has no state dict 'state_dict'"),
        ("ddrs cifar10", changed(SMALL, fc__bias=torch.ones(10).to_sparse()), "has no state dict 'state_dict'"),
        ("ddrs cifar10", changed(SMALL, fc__bias=torch.ones(10, device="meta")), "has no state dict 'state_dict'"),
        ("ddrs cifar10", changed(SMALL, fc__weight=torch.tensor(1.0)), "fc.weight is float32 (); resnet18_ddrs has float32 (10, 512)"),
        ("ddrs cifar10", [1, 2], "holds a list, not a checkpoint with a state dict"),
        ("ddrs cifar10", {**SMALL, "epoch": np.float64(3.0)}, "refused: holds numpy."),
    ],
    ids=range(24),
)
def test_what_is_not_of_the_format_is_refused(name: str, content: Any, message: str, tmp_path: Path, ddrs_cli: Cli) -> None:
    torch.save(content, tmp_path / "c.pth")
    refused(ddrs_cli, tmp_path, words(tmp_path / "c.pth", tmp_path / "m.safetensors", name), f"{tmp_path / 'c.pth'}: ", message)


def refused(cli: Cli, folder: Path, command: list[object], *parts: str) -> None:
    """One line, exit code 2, nothing written, and what was there kept."""
    (folder / "m.safetensors").write_bytes(b"before")
    held = sorted(path.name for path in folder.iterdir())
    code, out, error = cli(*command)
    assert code == 2 and out == "" and error.count("\n") == 1 and error.startswith("ddrs: error: ")
    assert all(part in error for part in parts), error
    assert (folder / "m.safetensors").read_bytes() == b"before" and sorted(path.name for path in folder.iterdir()) == held


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        (
            "smoothing-adversarial cifar10",
            ["--preprocessing", ""],
            "preprocessing : models of format smoothing-adversarial for cifar10 have normalize or center",
        ),
        ("locuslab cifar10", ["--preprocessing", "center"], "preprocessing center: models of format locuslab for cifar10 have normalize"),
        ("macer cifar10", ["--preprocessing", "normalize"], "preprocessing normalize: models of format macer for cifar10 have none"),
        ("macer imagenet", [], "format macer: its models are of cifar10, not of imagenet"),
        ("locuslab mnist5k", [], "format locuslab: its models are of cifar10 and imagenet, not of mnist5k"),
        ("locuslab cifar10", ["--format", "pytorch"], "format 'pytorch': unknown; known are locuslab, smoothing-adversarial, macer, ddrs"),
        (
            "locuslab cifar10",
            ["--method", "yang"],
            "method yang: trains with uniform noise; models of format locuslab were trained with gaussian noise",
        ),
        ("locuslab cifar10", ["--method", "cohn"], "method 'cohn': unknown"),
        ("locuslab cifar10", ["--sigma", "0"], "sigma"),
    ],
)
def test_bad_flags_are_refused(name: str, more: list[str], message: str, tmp_path: Path, ddrs_cli: Cli) -> None:
    torch.save(LARGE, tmp_path / "c.pth")
    refused(ddrs_cli, tmp_path, words(tmp_path / "c.pth", tmp_path / "m.safetensors", name, *more), message)


@pytest.mark.parametrize("name", ["smoothing-adversarial cifar10", "ddrs imagenet"])
def test_a_preprocessing_that_no_file_says_must_be_stated(name: str, tmp_path: Path, ddrs_cli: Cli) -> None:
    torch.save(LARGE, tmp_path / "c.pth")
    command = words(tmp_path / "c.pth", tmp_path / "m.safetensors", name)
    at = command.index("--preprocessing")
    form, dataset = name.split()
    refused(ddrs_cli, tmp_path, command[:at] + command[at + 2 :], f"format {form} for {dataset} do not say it; state normalize or center")


class Foreign:
    """Its unpickling would write a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.write_text, (self.path, "ran"))


@pytest.mark.parametrize("zipped", [True, False])
def test_foreign_code_is_refused_and_not_run(zipped: bool, tmp_path: Path, ddrs_cli: Cli) -> None:
    torch.save({**SMALL, "epoch": Foreign(tmp_path / "ran")}, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    command = words(tmp_path / "c.pth", tmp_path / "m.safetensors", "ddrs cifar10")
    refused(ddrs_cli, tmp_path, command, f"{tmp_path / 'c.pth'}: refused: holds ", "and loading it could run foreign code")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x1f\x8bgarbage", b"PK\x03\x04" + bytes(100)], ids=["empty", "an archive", "a broken zip"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path, ddrs_cli: Cli) -> None:
    (tmp_path / "c.pth").write_bytes(content)
    refused(ddrs_cli, tmp_path, words(tmp_path / "c.pth", tmp_path / "m.safetensors", "ddrs cifar10"), f"{tmp_path / 'c.pth'}: ")


def test_a_missing_file_is_named(tmp_path: Path, ddrs_cli: Cli) -> None:
    refused(ddrs_cli, tmp_path, words(tmp_path / "absent.pth", tmp_path / "m.safetensors", "ddrs cifar10"), "absent.pth: no such file")

"""Datasets in config.yaml: kinds, folders of images, hold-out, and what was fetched compared with what is asked."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ddrs.data.fetch import fetch
from ddrs.data.splits import check_fetched
from ddrs.errors import DdrsError
from ddrs.experiment.config import Config
from ddrs.experiment.load import load
from ddrs.experiment.preflight import check_counts, check_modules

SHIPPED = (Path(__file__).parents[3] / "config.yaml").read_text(encoding="utf-8")
GRID: dict[str, Any] = {"architecture": "small_cnn", "sigmas": [0.25], "radii": [0.0, 0.5], "images": {"test": 4}}
FOLDER = {**GRID, "kind": "imagefolder", "path": "pets", "classes": ["cat", "dog"], "shape": [3, 8, 8]}


def loaded(name: str, own: dict) -> Config:
    """The shipped config with one more dataset."""
    raw = yaml.safe_load(SHIPPED)
    raw["datasets"][name] = own
    return load(raw)


def refusal(name: str, own: dict) -> str:
    with pytest.raises(DdrsError) as error:
        loaded(name, own)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_kind_is_the_name_unless_it_says_another():
    assert loaded("cifar10", GRID).datasets["cifar10"].kind == "cifar10"
    assert loaded("cifar10-held_out2", {**GRID, "kind": "cifar10"}).datasets["cifar10-held_out2"].kind == "cifar10"


@pytest.mark.parametrize(
    ("own", "flags"),
    [
        ({**GRID, "kind": "cifar10"}, "--kind cifar10 --images test=4"),
        ({**GRID, "kind": "cifar10", "hold_out": 0, "source": "here"}, "--kind cifar10 --source here --validation 0 --images test=4"),
        (
            {**FOLDER, "images": {"test": 4, "validation": 3}},
            "--kind imagefolder --source pets --classes cat --classes dog --images test=4 --images validation=3 --shape 3,8,8",
        ),
    ],
)
def test_what_fetch_is_told(own: dict, flags: str):
    assert " ".join(loaded("x", own).datasets["x"].fetch_flags()) == flags


@pytest.mark.parametrize(
    ("name", "own", "words"),
    [
        ("pets", GRID, ["unknown dataset 'pets'", "needs its kind"]),
        ("pets", {**GRID, "kind": "imagefoldr"}, ["datasets.pets.kind: unknown kind 'imagefoldr' (did you mean 'imagefolder'?)"]),
        ("Pets", FOLDER, ["'Pets': must be lower-case letters, digits, _ and -"]),
        ("a/b", FOLDER, ["'a/b': must be lower-case"]),
        *(("pets", {**FOLDER, name: None}, [f"datasets.pets: {name}: is needed with kind: imagefolder"]) for name in ("path", "classes", "shape")),
        ("cifar10", {**GRID, "path": "x"}, ["datasets.cifar10: path: is only for kind: imagefolder, and this is cifar10"]),
        ("pets", {**FOLDER, "source": "x"}, ["datasets.pets: source: is not for kind: imagefolder, whose folder is path"]),
        *(
            ("pets", {**FOLDER, "classes": classes}, ["datasets.pets: classes ", f"{classes[0]!r}, {classes[1]!r}: must be two or more different"])
            for classes in (["cat", "cat"], ["", "cat"], [".", "dog"], ["..", "dog"], ["../cat", "dog"])
        ),
        ("pets", {**FOLDER, "shape": [2, 8, 8]}, ["datasets.pets: shape [2, 8, 8]: must be [C, H, W], with C = 1 (grey) or 3 (RGB)"]),
        ("pets", {**FOLDER, "path": ""}, ["datasets.pets.path", "at least 1"]),
        ("cifar10", {**GRID, "source": ""}, ["datasets.cifar10.source", "at least 1"]),
        ("pets", {**FOLDER, "shape": [3, 8]}, ["datasets.pets.shape", "at least 3"]),
        ("x", {**GRID, "kind": "mnist5k", "hold_out": 100}, ["datasets.x: hold_out: is not for mnist5k, which has a validation split of its own"]),
        (
            "cifar10",
            {**GRID, "hold_out": 0, "images": {"test": 4, "validation": 4}},
            ["datasets.cifar10: images.validation: 4 is above hold_out = 0; leave validation away"],
        ),
        ("cifar10", {**GRID, "images": {"test": 4, "validation": 5001}}, ["datasets.cifar10: images.validation: 5001 is above hold_out = 5000"]),
        ("cifar10", {**GRID, "images": {"test": 20_000}}, ["datasets.cifar10: images.test: 20000 is above the 10000 test images of cifar10"]),
        (
            "x",
            {**GRID, "kind": "mnist5k", "images": {"test": 4, "validation": 501}},
            ["images.validation: 501 is above the 500 validation images of"],
        ),
        ("cifar10", {**GRID, "hold_out": 50_000}, ["datasets.cifar10: hold_out: 50000 must be below the 50000 training images of cifar10"]),
        ("cifar10", {**GRID, "hold_out": -1}, ["datasets.cifar10.hold_out", "greater than or equal to 0"]),
    ],
)
def test_what_does_not_go_with_a_kind_is_one_line(name: str, own: dict, words: list[str]):
    text = refusal(name, own)
    assert all(word in text for word in words), text


def test_a_part_of_a_dataset_that_is_not_there_is_refused():
    raw = yaml.safe_load(SHIPPED)
    raw["train"]["mnist"] = {}
    with pytest.raises(DdrsError, match=r"train: unknown dataset 'mnist' \(did you mean 'mnist5k'\?\); known are mnist5k"):
        load(raw)


def test_tables_without_validation_images_need_two_test_images():
    raw = yaml.safe_load(SHIPPED)
    raw["datasets"]["mnist5k"]["images"] = {"test": 2}
    assert load(raw).datasets["mnist5k"].chooses_on == "even"
    raw["datasets"]["mnist5k"]["images"] = {"test": 1}
    with pytest.raises(DdrsError, match=r"needs test, for tables\.table1, and 2 or more of them without validation"):
        load(raw)


# what was fetched


def manifest(folder: Path, **facts: object) -> Path:
    held = {"validation": {"count": 4990, "dropped_duplicates": 10}}
    path = folder / "manifest.json"
    path.write_text(json.dumps({"dataset": "cifar10", "shape": [3, 32, 32], "classes": 10, "splits": held, **facts}))
    return path


@pytest.mark.parametrize(
    ("own", "facts", "word"),
    [
        ({}, {"kind": "cifar10", "hold_out": 5000}, None),
        ({}, {}, None),  # of before there were kinds
        ({"hold_out": 5000}, {}, None),
        ({"hold_out": 0}, {}, "hold_out 5000, but the config says 0"),
        ({"hold_out": 100}, {"kind": "cifar10", "hold_out": 5000}, "hold_out 5000, but the config says 100"),
        ({}, {"kind": "cifar10", "hold_out": 0}, "hold_out 0, but the config says 5000"),
        ({"kind": "mnist"}, {}, 'kind "cifar10", but the config says "mnist"'),
    ],
)
def test_another_kind_or_hold_out_than_what_was_fetched_is_one_line(own: dict, facts: dict, word: str | None, tmp_path: Path):
    path, asked = manifest(tmp_path, **facts), loaded("cifar10", {**GRID, **own}).datasets["cifar10"].fetched()
    check_fetched(tmp_path / "nowhere.json", asked)
    if word is None:
        check_fetched(path, asked)
        return
    with pytest.raises(DdrsError) as error:
        check_fetched(path, asked)
    text = str(error.value)
    assert f"{path}: was fetched with {word}; give the dataset another name, or delete the folder {tmp_path}" in text and "\n" not in text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hold_out": 3}, None),
        ({"hold_out": 3, "path": "pets/"}, None),
        ({"hold_out": 2}, "hold_out 3, but the config says 2"),
        ({}, "asked_hold_out 3, but the config says 5000"),
        ({"hold_out": 3, "classes": ["dog", "cat"]}, 'class_names ["cat", "dog"], but'),
        ({"hold_out": 3, "shape": [1, 8, 8]}, "shape [3, 8, 8], but"),
        ({"hold_out": 3, "path": "pets2"}, 'path "pets", but the config says "pets2"'),
    ],
)
def test_a_folder_of_images_is_compared_by_all_that_was_asked_for(change: dict, word: str | None, tmp_path: Path):
    asked_for = {"class_names": ["cat", "dog"], "path": "pets", "asked_hold_out": 3}
    path = manifest(tmp_path, kind="imagefolder", hold_out=3, shape=[3, 8, 8], **asked_for)
    asked = loaded("pets", {**FOLDER, **change}).datasets["pets"].fetched()
    if word is None:
        check_fetched(path, asked)
        return
    with pytest.raises(DdrsError) as error:
        check_fetched(path, asked)
    assert f"was fetched with {word}" in str(error.value)


def test_a_hold_out_that_a_validation_folder_made_needless_is_compared(tmp_path: Path):
    asked_for = {"class_names": ["cat", "dog"], "path": "pets", "asked_hold_out": 5000}
    path = manifest(tmp_path, kind="imagefolder", hold_out=None, shape=[3, 8, 8], **asked_for)
    check_fetched(path, loaded("pets", FOLDER).datasets["pets"].fetched())
    for hold_out in (5000, 0):
        with pytest.raises(DdrsError, match=f"was fetched with hold_out null, but the config says {hold_out}"):
            check_fetched(path, loaded("pets", {**FOLDER, "hold_out": hold_out}).datasets["pets"].fetched())


def test_what_fetch_writes_is_what_the_shipped_config_says(mnist5k: Path, tmp_path: Path):
    check_fetched(mnist5k, load(yaml.safe_load(SHIPPED)).datasets["mnist5k"].fetched())
    facts = fetch("digits", tmp_path / "manifest.json", kind="mnist5k")
    assert (facts["dataset"], facts["kind"], facts["hold_out"]) == ("digits", "mnist5k", None)
    with pytest.raises(DdrsError, match='kind "mnist5k", but'):
        check_fetched(tmp_path / "manifest.json", loaded("digits", {**GRID, "kind": "mnist"}).datasets["digits"].fetched())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"dataset": "a", "splits": {}}'])
def test_a_manifest_that_is_none_is_one_line(text: str, tmp_path: Path):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DdrsError, match=r"manifest\.json: not a dataset manifest; delete its folder"):
        check_fetched(tmp_path / "manifest.json", {"kind": "mnist"})


def test_fewer_images_than_asked_are_one_line(tmp_path: Path):
    path = tmp_path / "manifest.json"
    check_counts(path, "pets", {"test": 4})
    none, some = {"count": 0, "dropped_duplicates": 0}, {"count": 498, "dropped_duplicates": 2}
    path.write_text(json.dumps({"splits": {"test": some, "validation": none}}))
    check_counts(path, "pets", {"test": 498})
    for images, text in (
        (
            {"test": 500},
            "500 test images are asked for, and there are 498; 2 were dropped, as they equal images of another split; set images.test to 498",
        ),
        ({"validation": 1}, "1 validation images are asked for, and there are 0; leave images.validation away"),
    ):
        with pytest.raises(DdrsError, match="dataset 'pets': ") as error:
            check_counts(path, "pets", images)
        assert text in str(error.value) and "\n" not in str(error.value)
    for text in ("{", "{}", "[]", '{"splits": {}}'):
        path.write_text(text)
        with pytest.raises(DdrsError, match=r"manifest\.json: not a dataset manifest"):
            check_counts(path, "pets", {"test": 4})


def test_model_is_another_name_of_architecture():
    own = {name: value for name, value in FOLDER.items() if name != "architecture"}
    found = loaded("pets", {**own, "model": "mynet:build", "uniform": {"model": "mynet:wide"}}).datasets["pets"]
    assert (found.architecture, found.uniform.architecture) == ("mynet:build", "mynet:wide")
    both = {"architecture": "small_cnn", "model": "mynet:build"}
    for wrong in ({**FOLDER, **both}, {**FOLDER, "uniform": both}):
        with pytest.raises(DdrsError, match="model: is another name of architecture, which is there too; give one of them"):
            loaded("pets", wrong)


def test_a_model_of_the_users_own_must_have_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("nets", "bare"):
        (tmp_path / folder / "deep").mkdir(parents=True)
    (tmp_path / "nets" / "deep" / "__init__.py").touch()
    for path in ("mynet.py", "nets/deep/wide.py", "bare/wide.py", "bare/deep/wide.py"):
        (tmp_path / path).write_text("def build(shape, classes): ...\nraise ZeroDivisionError  # is not imported\n")
    (tmp_path / "other.py").write_text("from json import dumps as built\n")
    (tmp_path / "starred.py").write_text("from mynet import *\n")
    (tmp_path / "broken.py").write_text("def build(:\n")
    for module in ("mynet", "nets.deep.wide", "bare.wide", "starred", "torch", "torch.nn", "sys"):
        check_modules(loaded("pets", {**FOLDER, "architecture": f"{module}:build"}).datasets)
    for module, text in (
        ("nowhere", f"there is no module nowhere, neither in {tmp_path} nor where Python looks for it"),
        ("nets.wide", "there is no module nets.wide, neither"),
        ("mynet.deep", "there is no module mynet.deep, neither"),
        ("bare.deep.wide", "package bare.deep needs an __init__.py"),
        ("broken", "broken.py: SyntaxError"),
        ("other", "other.py has no function build(shape, classes)"),
    ):
        for place, own in (
            ("architecture", {"architecture": f"{module}:build"}),
            ("uniform.architecture", {"uniform": {"architecture": f"{module}:build"}}),
        ):
            with pytest.raises(DdrsError, match=rf"^config: datasets\.pets\.{place}: ") as error:
                check_modules(loaded("pets", {**FOLDER, **own}).datasets)
            assert text in str(error.value) and "\n" not in str(error.value)

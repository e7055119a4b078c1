"""`ddrs use`: an overlay is merged as Snakemake merges it, and what was there is never lost."""

import copy
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from snakemake.utils import update_config

from ddrs.errors import DdrsError
from ddrs.experiment.load import load
from ddrs.operations.overlays import merge, read_all, require_fitting

ROOT = Path(__file__).parents[3]
KEYS = st.sampled_from(["a", "b", 0.25, 1])
VALUES = st.recursive(st.sampled_from([None, 0, 1.0, "x", [1, 2], []]), lambda below: st.dictionaries(KEYS, below, max_size=3), max_leaves=8)
MAPPINGS = st.dictionaries(KEYS, VALUES, max_size=3)


@given(MAPPINGS, MAPPINGS)
def test_merge_is_snakemakes(base: dict, overlay: dict) -> None:
    theirs = copy.deepcopy(base)
    update_config(theirs, overlay)
    before = copy.deepcopy(base)
    assert merge(base, overlay) == theirs and base == before


def test_overlays_are_merged_among_themselves_first(tmp_path: Path) -> None:
    """As Snakemake does: a mapping in the last one brings back what the base has below it, though the first one put a number there."""
    (tmp_path / "a.yaml").write_text("x: 5")
    (tmp_path / "b.json").write_text('{"x": {"b": 2}}')
    assert merge({"x": {"a": 1}}, read_all([tmp_path / "a.yaml", tmp_path / "b.json"])) == {"x": {"a": 1, "b": 2}}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped config.yaml in git, as the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text((ROOT / "config.yaml").read_text())
    for words in (["init", "-q"], ["add", "config.yaml"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "start"]):
        subprocess.run(["git", *words], check=True)
    return tmp_path


@pytest.mark.parametrize("overlays", [["tests/configs/tiny.yaml"], ["configs/paper.yaml", "tests/configs/tiny.yaml"]])
def test_the_written_config_is_the_merged_one(overlays: list[str], repository: Path, ddrs_cli: Callable) -> None:
    """Value by value, keys that are numbers and numbers written as 1e-5 included; without anchors, with a header that says where it is from."""
    extra = repository / "extra.yaml"
    extra.write_text("train: {mnist5k: {cohen: {weight_decay: 1.0e-05, learning_rate: 1}}}\n")
    paths = [*(ROOT / overlay for overlay in overlays), extra]
    expected = merge(yaml.safe_load((ROOT / "config.yaml").read_text()), read_all(paths))
    assert ddrs_cli("use", *paths) == (0, "config.yaml: written\n", "")
    text = (repository / "config.yaml").read_text()
    assert yaml.safe_load(text) == expected and repr(yaml.safe_load(text)) == repr(expected)
    assert "&" not in text.split("\n\n", 1)[1] and "<<" not in text
    lines = text.splitlines()
    assert lines[0].startswith("# yaml-language-server: ") and all(str(path) in lines[1] for path in paths)
    assert expected["train"]["mnist5k"]["smoothadv"]["loss"]["epsilon"] == {0.25: 0.5, 0.5: 1.0, 1.0: 1.0}


def test_an_overlay_that_says_nothing_new_leaves_the_comments(repository: Path, ddrs_cli: Callable) -> None:
    (repository / "same.yaml").write_text("seed: 0\n")
    assert ddrs_cli("use", "same.yaml") == (0, "config.yaml: says all of that already\n", "")
    assert (repository / "config.yaml").read_text() == (ROOT / "config.yaml").read_text()


def test_dvc_lists_what_the_config_makes_and_nothing_else(repository: Path, ddrs_cli: Callable) -> None:
    """And all of it again, byte for byte, with a config that makes it."""
    shipped = (ROOT / "dvc.yaml").read_text()
    (repository / "dvc.yaml").write_text(shipped)
    assert ddrs_cli("use", ROOT / "configs/fashion.yaml") == (0, "config.yaml, dvc.yaml: written\n", "")
    text = (repository / "dvc.yaml").read_text()
    gone = {line.strip() for line in shipped.splitlines()} - {line.strip() for line in text.splitlines()}
    forms = ("figure{}.pdf", "figure{}.png", "captions/figure{}.md", "pages/figure{}.html")
    assert gone == {f"- results/{form.format(number)}: {{persist: true}}" for number in "689" for form in forms}
    assert all(f"      # {line}\n" in text for line in gone) and len(text.splitlines()) == len(shipped.splitlines())
    subprocess.run(["git", "restore", "config.yaml"], check=True)
    with pytest.raises(
        DdrsError, match=r"dvc\.yaml: lacks results/captions/figure6\.md, which config\.yaml makes; `ddrs use config\.yaml` puts that right"
    ):
        require_fitting(Path("dvc.yaml"), load(yaml.safe_load(Path("config.yaml").read_text())))
    assert ddrs_cli("use", "config.yaml") == (0, "dvc.yaml: written\n", "")
    assert (repository / "dvc.yaml").read_text() == shipped


BAD = {
    "changed": ("seed: 1", "has changes that are not committed"),
    "staged": ("seed: 1", "has changes that are not committed"),
    "untracked": ("seed: 1", "is not in git"),
    "no git": ("seed: 1", "is not in git"),
    "unknown key": ("certify: {mnist5k: {nn: 1}}", "certify.mnist5k: unknown key 'nn'"),
    "list": ("- 1", "must have keys at its top level"),
    "broken": ("a: [", "not valid YAML"),
    "endless": ("certify: &all {mnist5k: *all}", "has an alias inside of what it stands for"),
    "missing": (None, "no such file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_config_stays(case: str, repository: Path, ddrs_cli: Callable) -> None:
    overlay, message = BAD[case]
    config = repository / "config.yaml"
    if overlay is not None:
        (repository / "o.yaml").write_text(overlay)
    if case in ("changed", "staged"):
        config.write_text(config.read_text() + "# mine\n")
    if case == "staged":
        subprocess.run(["git", "add", "config.yaml"], check=True)
    if case == "untracked":
        subprocess.run(["git", "rm", "-q", "--cached", "config.yaml"], check=True)
    if case == "no git":
        (repository / ".git").rename(repository / "gone")
    before = config.read_bytes()
    code, out, err = ddrs_cli("use", "o.yaml")
    assert (code, out) == (2, "") and err.startswith("ddrs: error: ") and err.count("\n") == 1 and message in err
    assert config.read_bytes() == before

"""docs/your-own.md, run as it stands: its model, its config and its commands, on a few pictures and at a smaller scale."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import ROOT, dry, snakemake

from ddrs.provenance.digests import file_digest

DOC = (ROOT / "docs" / "your-own.md").read_text()
SMALLER = """
datasets: {pets: {sigmas: [0.25], radii: [0.0, 0.25], images: {test: 6}}}
train: {pets: {cohen: {epochs: 1}}}
finetune: {pets: {cohen: {train: {epochs: 1}}}}
search: {pets: {k_max: 10}}
certify: {pets: {n: 200, k: [5]}}
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOC, re.S)


def commands(program: str) -> list[list[str]]:
    lines = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
    return [words[1:] for words in lines if words[0] == program]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red cats and blue dogs of several sizes, the model and the config."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 5)):
        for label, name in enumerate(("cat", "dog")):
            (folder / "pets" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 90, (36 + i, 50, 3), dtype=np.uint8)
                pixels[:, :, 2 * label] += 150
                Image.fromarray(pixels).save(folder / "pets" / split / name / f"{i}.jpg")
    (module,), (config,) = blocks("python"), blocks("yaml")
    (folder / "mynet.py").write_text(module)
    (folder / "mine.yaml").write_text(config)
    (folder / "smaller.yaml").write_text(SMALLER)
    return folder


@pytest.fixture(scope="module")
def run(here: Path, warm: Path) -> Path:
    """The folder after the page's Snakemake lines."""
    for words in commands("snakemake"):
        assert words[-2:] == ["--configfile", "mine.yaml"]
        words = ["2" if word == "8" else word for word in words]
        snakemake(*words[:-1], here / "mine.yaml", here / "smaller.yaml", folder=here, config=None, programs=warm)
    return here


def verb(words: list[str], folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-m", "ddrs", *words], cwd=folder, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def test_from_a_folder_and_a_model_to_a_table(run: Path) -> None:
    with open(run / "results/table1.csv", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [(row["dataset"], row["method"]) for row in found] == [("pets", "cohen"), ("pets", "cohen-ds"), ("pets", "cohen-ds2")]
    cell = json.loads((run / "results/cells/table1_selected/pets/cohen-ds/0.25.json").read_text())
    assert (cell["kind"], cell["verdict"], cell["choice"], cell["images"]) == ("imagefolder", "no print", "even", 3)
    before = "results/certificates/pets/test/cohen/ds/sigma_0.25.K_5.tsv"
    assert cell["digests_before_memory"] == {Path(before).name: file_digest(run / before)}, "no reported image changed one that chose"
    assert "on 3 test images" in (run / "results/table1_selected.md").read_text() and (run / "results/figure3.pdf").exists()
    facts = json.loads((run / "data/pets/manifest.json").read_text())
    assert (facts["shape"], facts["class_names"], facts["splits"]["train"]["count"]) == ([3, 32, 32], ["cat", "dog"], 48)


def test_where_even_images_choose_a_dry_run_says_on_what(here: Path) -> None:
    """On the certificates of rows with a memory, and only in the selected form; p_lower's K too."""
    overlays = ("--configfile", here / "mine.yaml", here / "smaller.yaml")
    targets = ("results/table1.md", "results/table1_selected.md", "results/p_lower_table1.png")
    text = dry("--printshellcmds", "--forceall", *overlays, "--", *targets, folder=here, config=None).stdout
    row = "--before results/certificates/pets/test/cohen/{}/sigma_0.25.K_5.tsv"
    found = {line: re.findall(r"--before \S+", line) for line in re.findall(r"ddrs (?:cell|distribution) .*", text)}
    assert len(found) == 7
    for line, before in found.items():
        row_of = re.search(r"--label cohen-?(\w*)", line)
        needed = ["ds", "ds2"] if row_of is None else [row_of[1]] if row_of[1] and "table1_selected" in line else []
        assert before == [row.format(name) for name in needed], line


def test_a_dataset_fetched_anew_leaves_no_old_result_unnoticed(run: Path, warm: Path, tmp_path: Path) -> None:
    """Another picture, and the folder under data/ deleted, as the page says: nothing runs before the results are deleted too."""
    folder = tmp_path / "again"
    shutil.copytree(run, folder, symlinks=True)
    overlays = ("--configfile", folder / "mine.yaml", folder / "smaller.yaml")
    shutil.rmtree(folder / "data/pets")
    Image.new("RGB", (40, 40), (0, 200, 0)).save(folder / "pets/test/cat/0.jpg")
    snakemake("--cores", 1, *overlays, "--", "data/pets/manifest.json", folder=folder, config=None, programs=warm)
    done = dry(*overlays, "--", "results/table1.md", folder=folder, config=None, check=False)
    assert done.returncode and "was made of other test images than those of data/pets/manifest.json" in done.stderr
    assert "give the dataset another name, or delete scratch/shards/pets and results/, or of it results/*/pets, results/cells/*/pets" in done.stderr
    for place in sorted((folder / "results").glob("*/pets")):
        shutil.rmtree(place)
    done = dry(*overlays, "--", "results/table1.md", folder=folder, config=None, check=False)
    assert done.returncode and re.search(r"results/cells/table1/pets/\S+/acr\.json: was made of other test images", done.stderr)
    shutil.rmtree(folder / "results")
    assert "certify" in dry(*overlays, "--", "results/table1.md", folder=folder, config=None).stdout


def test_a_changed_model_trains_again_and_a_comment_does_not(run: Path) -> None:
    overlays = ("--configfile", run / "mine.yaml", run / "smaller.yaml")
    path = run / "mynet.py"
    before = path.read_text()

    def planned() -> str:
        done = dry("--quiet", "rules", *overlays, "--", "results/table1.md", folder=run, config=None)
        return done.stdout + done.stderr

    path.write_text("# a comment\n" + before)
    assert "Nothing to be done" in planned()
    path.write_text(before.replace("nn.Linear(512", "nn.Dropout(), nn.Linear(512"))
    assert re.search(r"^train +1$", planned(), re.M)
    path.write_text(before)


def test_the_config_as_it_stands_is_planned(here: Path, tmp_path: Path) -> None:
    for name in ("pets", "mynet.py"):  # without the data, of which there is less than the page has
        (tmp_path / name).symlink_to(here / name)
    text = dry("--quiet", "rules", "--configfile", here / "mine.yaml", "--", "paper", folder=tmp_path, config=None).stdout
    assert re.search(r"^table +2$", text, re.M)


def test_every_step_that_reads_a_checkpoint_names_the_factory(here: Path, tmp_path: Path) -> None:
    for name in ("pets", "mynet.py"):
        (tmp_path / name).symlink_to(here / name)
    words = ("--printshellcmds", "--configfile", here / "mine.yaml", "--", "results/table1.md")
    commands = re.findall(r"\bddrs (?:train|finetune|sigma|certify) --.*", dry(*words, folder=tmp_path, config=None).stdout)
    assert len({command.split()[1] for command in commands}) == 4
    assert all(command.count(" --architecture mynet:build ") == 1 for command in commands)


def test_a_model_that_is_not_there_is_one_line(here: Path) -> None:
    (here / "nowhere.yaml").write_text("datasets: {pets: {architecture: 'nowhere:build'}}\n")
    overlays = ("--configfile", here / "mine.yaml", here / "nowhere.yaml")
    done = dry(*overlays, "--", "paper", folder=here, config=None, check=False)
    assert done.returncode and "ddrs: error: config: datasets.pets.architecture: there is no module nowhere, neither in" in done.stderr


def test_another_shape_under_the_same_name_is_one_line(run: Path) -> None:
    (run / "larger.yaml").write_text("datasets: {pets: {shape: [3, 64, 64]}}\n")
    overlays = ("--configfile", run / "mine.yaml", run / "smaller.yaml", run / "larger.yaml")
    done = dry(*overlays, "--", "results/table1.md", folder=run, config=None, check=False)
    assert done.returncode and "data/pets/manifest.json: was fetched with shape [3, 32, 32], but the config says [3, 64, 64]; give" in done.stderr


def test_the_plan_of_what_is_finished(run: Path) -> None:
    (words,) = [words for words in commands("ddrs") if words[0] == "plan"]
    assert verb([*words, "--configfile", "smaller.yaml", "--snakefile", str(ROOT / "Snakefile")], run).startswith("Nothing to be done")


def test_the_verbs_by_hand(here: Path, tmp_path: Path) -> None:
    lines = [words for words in commands("ddrs") if words[0] != "plan"]
    assert [words[0] for words in lines] == ["fetch", "train", "certify", "envelope"]
    for name in ("pets", "mynet.py"):
        (tmp_path / name).symlink_to(here / name)
    said = [verb(words, tmp_path) for words in lines]
    assert said[-1].startswith("log,0,0.25,0.5,acr")

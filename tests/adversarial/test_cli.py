"""What can be given to the command line by mistake or in bad faith, as one table: each ends in one line, before any work, and loses nothing.

A new kind of wrong input is a new line of WRONG.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from ddrs.certification.records import LOG_COLUMNS, format_line
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.commands.main import VERBS, loaded
from ddrs.experiment.config import Config
from ddrs.models.devices import Runtime
from ddrs.sigma.settings import SearchSettings
from ddrs.statistics.bounds import lower_confidence_bound
from ddrs.training.settings import RegimeSettings, TrainSettings

FIELDS = {
    **{"idx": 3, "label": 7, "predict": -1, "radius": 0.0, "correct": 0, "sigma": 0.25, "off_grid": 0, "n": 1000, "n_top": 500, "n_second": ""},
    **{"p_lower": lower_confidence_bound(500, 1000, 0.001), "p_upper": "", "z": "", "n0": 100, "n_max": 1000, "alpha": 0.001},
    **{"protocol": "fixed", "bound": "binary", "spending": "", "looks": "", "noise": "gaussian", "precision": "float32", "dataset": "mnist5k"},
    **{"split": "test", "data": "abc", "method": "cohen", "sigma0": "0.25", "K": "", "seed": 0, "digest": "def", "d": 784, "device": "cpu"},
    **{"deviation": 0.0, "examples": 1, "split_images": 500},
}


def log(**other: str) -> bytes:
    """A log of one image on which the certifier abstained."""
    return "\n".join(["\t".join(LOG_COLUMNS), format_line({**FIELDS, **other}), ""]).encode()


SIX = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t0.5\t1\t0\n"
DATA, MODEL = ["--data", "data/manifest.json"], ["--model", "model.safetensors"]
TRAIN = ["train", *DATA, "--out", "out/new", "--method", "cohen", "--architecture", "small_cnn", "--sigma", "0.25", "--epochs", "1"]
CERTIFY = ["certify", *DATA, *MODEL, "--sigma", "0.25", "--n0", "10", "--n", "100", "--images", "2", "--out", "out/new"]
SEARCH = ["sigma", *DATA, *MODEL, "--k-max", "2", "--images", "2", "--out", "out/new"]
FINETUNE = ["finetune", *DATA, *MODEL, "--epochs", "1", "--out", "out/new"]
CELL = ["cell", "log.tsv", "--table", "table1", "--label", "cohen", "--radii", "0,0.25", "--out-dir", "out"]
GARBAGE = b"\x89PNG\r\n\x1a\ngarbage"
BINARY = b"\x93\xff\x00\xfe" * 300
DIGITS = "9" * 5000
FILES: dict[str, bytes] = {  # that lie in the working folder of each; `out/old` is an earlier result, `folder` a folder
    "log.tsv": log(),
    "six.tsv": SIX.encode(),
    "text.md": b"| a |\n|---|\n| 1 |\n",
    "out/old": b"an earlier result\n",
    "folder/inside": b"",
}


class Wrong(NamedTuple):
    """A wrong call: its name, the words after `ddrs`, what the line must say, and the files that it needs beside FILES."""

    name: str
    words: list[str]
    says: str
    files: dict[str, bytes] = {}  # noqa: RUF012  (a default that nobody changes)


WRONG = [
    # numbers beyond all use
    Wrong(
        "class of 25 digits",
        ["remember", "x.tsv", *DATA, "--out-dir", "out"],
        "line 2",
        {"x.tsv": log(label="9" * 25)},
    ),
    Wrong(
        "K of 5,000 digits in a log",
        ["envelope", "x.tsv", "--radii", "0"],
        "K = '999",
        {"x.tsv": log(K=DIGITS)},
    ),
    Wrong("K of 5,000 digits", [*CERTIFY, "--k", DIGITS], "--k"),
    Wrong("K beyond all counts", [*CERTIFY, "--k", "1" + "0" * 25], "--k"),
    Wrong("seed of a cell", [*CELL, "--seed", str(2**130)], "less than or equal to 18446744073709551615"),
    Wrong("seed of a training", [*TRAIN, "--seed", str(2**64)], "--seed"),
    Wrong("threads", [*TRAIN, "--threads", "100000"], "threads: Input should be less than or equal to 1024"),
    Wrong("threads of a plan", ["plan", "--threads", "100000"], "less than or equal to 1024"),
    Wrong("batch of a certificate", [*CERTIFY, "--batch-size", "1" + "0" * 12], "less than or equal to 1048576"),
    Wrong("batch of a training", [*TRAIN, "--batch-size", "1" + "0" * 12], "batch_size: Input should be less than or equal to 1048576"),
    Wrong("batch of a search", [*SEARCH, "--batch-size", "1" + "0" * 12], "batch_size"),
    Wrong("samples", [*CERTIFY, "--n", "1" + "0" * 30], "n: Input should be less than or equal to 1000000000"),
    Wrong("samples of a step", [*FINETUNE, "--samples", "1" + "0" * 30], "samples"),
    Wrong("setting of a loss", [*TRAIN, "--method", "smoothadv", "--loss", "attack_steps=1" + "0" * 30], "at most 1,000,000,000"),
    Wrong("shard of 5,000 digits", [*CERTIFY, "--shard", f"{DIGITS}/{DIGITS}"], "must be I/N"),
    Wrong("shape of 5,000 digits", ["fetch", "x", "--kind", "imagefolder", "--shape", f"3,{DIGITS},3", "--out", "out/m.json"], "must be C,H,W"),
    Wrong("images of 5,000 digits", ["fetch", "mnist5k", "--images", f"test={DIGITS}", "--out", "out/m.json"], "must be SPLIT=COUNT"),
    # files of another kind
    Wrong("binary page", ["page", "x.md", "--html", "out/new"], "x.md: not a text file", {"x.md": BINARY}),
    Wrong("binary log", ["envelope", "x.tsv", "--radii", "0"], "x.tsv: not a text file", {"x.tsv": BINARY}),
    Wrong("absent config", ["publish", "text.md", "--config", "absent.yaml", "--out-dir", "out"], "config absent.yaml: no such file"),
    Wrong(
        "garbage picture",
        ["page", "text.md", "--html", "out/new", "--picture", "x.png"],
        "x.png: not a whole PNG",
        {"x.png": GARBAGE},
    ),
    Wrong("picture that is text", ["page", "text.md", "--html", "out/new", "--picture", "text.md"], "not a whole PNG"),
    Wrong("published garbage", ["publish", "x.png", "--config", "text.md", "--out-dir", "out"], "x.png: not a whole PNG", {"x.png": BINARY}),
    Wrong("cell of text", ["table", "text.md", "--csv", "out/a", "--md", "out/b", "--tex", "out/c"], "cell text.md: not a cell file"),
    # folders in the place of files, files in the place of folders
    Wrong("folder as a log", ["envelope", "folder", "--radii", "0"], "folder: is a folder, not a file"),
    Wrong("folder as a page", ["page", "folder", "--html", "out/new"], "folder: is a folder, not a file"),
    Wrong("folder as a model", [*CERTIFY, "--model", "folder"], "folder: is a folder, not a file"),
    Wrong("folder as a manifest", [*CERTIFY, "--data", "folder"], "folder: is a folder, not a file"),
    Wrong("folder as a cell", ["table", "folder", "--csv", "out/a", "--md", "out/b", "--tex", "out/c"], "folder: is a folder, not a file"),
    *(
        Wrong(f"folder as the output of {words[0]}", [*words, flag, "folder"], "folder: is a folder; give the name of a file")
        for words, flag in [
            (TRAIN, "--out"),
            (TRAIN, "--branch-out"),
            (TRAIN, "--sidecar"),
            (FINETUNE, "--out"),
            (SEARCH, "--out"),
            (CERTIFY, "--out"),
            (CERTIFY, "--times"),
            (["export", "six.tsv"], "--out"),
            (["page", "text.md"], "--html"),
        ]
    ),
    Wrong("output below a file", [*TRAIN, "--out", "out/old/new"], "out/old is a file, not a folder"),
    Wrong("output folder that is a file", [*CELL, "--out-dir", "out/old"], "out/old is a file, not a folder"),
    Wrong("scratch that is a file", [*TRAIN, "--scratch", "out/old"], "out/old is a file, not a folder"),
    Wrong("output that is a device", ["export", "six.tsv", "--out", "/dev/null"], "/dev/null: is no regular file"),
    # names of what is not there
    Wrong("a table that the paper has not", [*CELL, "--table", "table9"], "--table 'table9': must be table1, table2, table3, table4"),
    Wrong("a processor by number", [*TRAIN, "--device", "cpu:7"], "device 'cpu:7': unknown; use cpu, cuda or cuda:N"),
    # the same twice
    Wrong("a log twice in an envelope", ["envelope", "six.tsv", "six.tsv", "--radii", "0"], "six.tsv: is the same as one given before"),
    Wrong("a log by two names", ["envelope", "six.tsv", "x.tsv", "--radii", "0"], "x.tsv: is the same as six.tsv", {"x.tsv": SIX.encode()}),
    Wrong("a log twice in a cell", [*CELL, "./log.tsv"], "log.tsv: is the same as"),
    Wrong("a log twice in a figure", ["figure", "log.tsv", "./log.tsv", "--pdf", "out/a", "--png", "out/b"], "log.tsv: is the same as"),
    Wrong("a log twice in a distribution", ["distribution", "log.tsv", "./log.tsv", "--pdf", "out/a", "--png", "out/b"], "log.tsv: is the same as"),
]


@pytest.fixture
def here(tmp_path: Path, trained: Path, small_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with FILES, a model and its dataset."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_mnist.parent, tmp_path / "data")
    shutil.copy(trained, tmp_path / "model.safetensors")
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_a_wrong_call_is_one_line_before_the_work_and_loses_nothing(wrong: Wrong, here: Path, ddrs_cli: Callable[..., tuple[int, str, str]]) -> None:
    for name, data in {**FILES, **wrong.files}.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(data)
    before = contents(here)
    code, out, err = ddrs_cli(*wrong.words)
    assert (code, out) == (2, "")
    assert err.startswith("ddrs: error: ") and err.count("\n") == 1 and len(err) < 12_000 and wrong.says in err, err
    assert contents(here) == before


def test_a_byte_order_mark_is_no_part_of_the_first_column(here: Path, ddrs_cli: Callable[..., tuple[int, str, str]]) -> None:
    (here / "plain.tsv").write_text(SIX)
    (here / "marked.tsv").write_text(SIX, encoding="utf-8-sig")
    told = [ddrs_cli("envelope", f"{name}.tsv", "--radii", "0,0.25") for name in ("plain", "marked")]
    assert told[0][0] == told[1][0] == 0 and told[0][1] == told[1][1].replace("marked", "plain")


def parameters() -> dict[str, Any]:
    """Of all verbs, by verb and first name."""
    return {f"{verb} {parameter.opts[0]}": parameter for verb in VERBS for parameter in loaded(verb).params}


SETTINGS = (Runtime, TrainSettings, RegimeSettings, SearchSettings, ImageCertificateSettings)  # whose flags are checked by these models


def test_every_whole_number_of_the_command_line_has_bounds() -> None:
    flags = {"--" + name.replace("_", "-") for one in SETTINGS for name in one.model_fields}
    whole = {name: parameter for name, parameter in parameters().items() if parameter.type_descriptor.annotation is int}
    assert {"cell --seed", "certify --batch-size"} <= whole.keys()
    loose = [name for name, one in whole.items() if None in (getattr(one, "min", None), getattr(one, "max", None))]
    assert [name for name in loose if name.split()[1] not in flags] == []


@pytest.mark.parametrize("model", [Config, *SETTINGS], ids=lambda model: model.__name__)
def test_every_whole_number_of_the_settings_has_bounds(model: type[BaseModel]) -> None:
    def loose(node: Any, path: str) -> list[str]:
        if isinstance(node, dict):
            bounded = node.get("type") != "integer" or ({"minimum", "exclusiveMinimum"} & node.keys() and "maximum" in node)
            return [*([] if bounded else [path]), *(one for key, value in node.items() for one in loose(value, f"{path}/{key}"))]
        return [one for i, value in enumerate(node) for one in loose(value, f"{path}/{i}")] if isinstance(node, list) else []

    # a plug-in's setting may be negative or a fraction: its value is bounded where it is read
    of_plugins = {"loss", "set", "strategies", "regimes", "certificates"}
    assert [path for path in loose(model.model_json_schema(), "") if not of_plugins & set(path.split("/"))] == []


def test_every_output_is_checked_before_the_work() -> None:
    said = ("to write", "with its caption", "the same as ")
    outputs = {name: one for name, one in parameters().items() if any(text in (getattr(one, "help", None) or "") for text in said)}
    assert len(outputs) > 30
    assert [name for name, one in outputs.items() if one.callback is None and not name.endswith("--sidecar")] == []  # which Runtime checks


def test_as_a_process_it_is_the_same_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ddrs", "page", str(tmp_path), "--html", "x"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (2, "") and found.stderr == f"ddrs: error: Markdown file {tmp_path}: is a folder, not a file\n"

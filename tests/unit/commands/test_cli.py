"""The command line: what goes wrong is one line on stderr, nothing that existed is lost, and light verbs load no torch."""

import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import typer

from ddrs.commands import main
from ddrs.commands.flags import app
from ddrs.commands.main import VERBS, loaded
from ddrs.errors import DdrsWarning
from ddrs.files import temporary_of
from ddrs.models.devices import Runtime
from ddrs.sigma.settings import SearchSettings
from ddrs.training.settings import TrainSettings

QUICK_TRAIN = ["--architecture", "small_cnn", "--sigma", "0.25", "--epochs", "1", "--batch-size", "100"]
CERTIFY = ["--n0", "10", "--n", "100", "--images", "2"]


@pytest.fixture(scope="module")
def world(trained: Path, small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one good file of each kind, under the names that `command` uses."""
    from ddrs.certification.run import certify
    from ddrs.certification.settings import ImageCertificateSettings
    from ddrs.certification.shards import Shard
    from ddrs.sigma.run import search
    from ddrs.training.run import train

    folder = tmp_path_factory.mktemp("world")
    runtime, quiet = Runtime(scratch=folder / "scratch"), lambda line: None
    shutil.copytree(small_mnist.parent, folder / "data")
    shutil.copy(trained, folder / "model.safetensors")
    settings = TrainSettings(epochs=2, batch_size=100, branch_epoch=1)
    train(small_mnist, folder / "unused", folder / "branch.pt", "cohen", "small_cnn", 0.25, settings, 0, runtime, quiet)
    (folder / "unused").unlink()
    search(trained, small_mnist, folder / "sigmas.parquet", SearchSettings(k_max=3), "test", 2, 0, runtime, quiet)
    sampling, times = ImageCertificateSettings(n0=10, n=100), folder / "times.tsv"
    for number in (1, 2):
        shard, log = Shard(number, 2), folder / f"log.{number}-of-2.tsv"
        certify(trained, small_mnist, log, sampling, 0.25, None, None, "test", 2, shard, None, None, 0, runtime, quiet)
    certify(trained, small_mnist, folder / "log.tsv", sampling, 0.25, None, None, "test", 2, Shard(), None, times, 0, runtime, quiet)
    shutil.rmtree(folder / "scratch")
    command = [sys.executable, "-m", "ddrs", "cell", folder / "log.tsv", "--table", "table1", "--label", "cohen"]
    subprocess.run([*command, "--radii", "0,0.25", "--out-dir", folder], check=True)
    (folder / "0.25.json").rename(folder / "cell.json")
    return folder


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `world` to damage, as the working folder."""
    shutil.copytree(world, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


DATA, MODEL = ["--data", "data/manifest.json"], ["--model", "model.safetensors"]
COMMANDS: dict[str, list[str]] = {
    "fetch": ["fetch", "mnist5k", "--out", "out/manifest.json"],
    "train": ["train", *DATA, "--out", "out/m", "--branch-out", "out/b", "--method", "cohen", *QUICK_TRAIN],
    "finetune": ["finetune", *DATA, *MODEL, "--branch", "branch.pt", "--out", "out/m", "--epochs", "2", "--batch-size", "100"],
    "sigma": ["sigma", *DATA, *MODEL, "--out", "out/s.parquet", "--k-max", "2", "--images", "2"],
    "certify": ["certify", *DATA, *MODEL, "--sigmas", "sigmas.parquet", "--k", "3", "--out", "out/l.tsv", *CERTIFY],
    "merge": ["merge", "log.2-of-2.tsv", "log.1-of-2.tsv", "--out", "out/l.tsv"],
    "remember": ["remember", "log.tsv", *DATA, "--out-dir", "out"],
    "envelope": ["envelope", "log.tsv", "--radii", "0,0.25"],
    "cell": ["cell", "log.tsv", "--table", "table1", "--label", "cohen", "--radii", "0,0.25", "--out-dir", "out"],
    "table": ["table", "cell.json", "acr.json", "--csv", "out/t.csv", "--md", "out/t.md", "--tex", "out/t.tex"],
    "figure": ["figure", "log.tsv", "--pdf", "out/f.pdf", "--png", "out/f.png"],
    "export": ["export", "log.tsv", "--times", "times.tsv", "--out", "out/e.tsv"],
}
OUTPUTS = {
    "fetch": ["manifest.json", "train.images.npy"],
    "train": ["m", "b"],
    "finetune": ["m"],
    "sigma": ["s.parquet"],
    "certify": ["l.tsv"],
    "merge": ["l.tsv"],
    "remember": ["log.tsv"],
    "envelope": [],
    "cell": ["0.00.json", "0.25.json", "acr.json"],
    "table": ["t.csv", "t.md", "t.tex"],
    "figure": ["f.pdf", "f.png"],
    "export": ["e.tsv"],
}
INPUTS = {
    verb: [word for word in words[1:] if re.match(r"data/|model\.|branch\.|sigmas\.|log\.|cell\.|times\.", word)] for verb, words in COMMANDS.items()
}
READS = [(verb, name) for verb, names in INPUTS.items() for name in names]


def one_line(result: tuple[int, str, str], *parts: str) -> str:
    """The line on stderr of a verb that failed, with all these parts in it."""
    code, _, err = result
    assert code != 0
    assert err.count("\n") == 1 and err.endswith("\n") and err.strip(), f"not one line:\n{err}"
    assert [part for part in parts if part not in err] == [], err
    return err


def with_old_outputs(here: Path, verb: str) -> dict[Path, bytes]:
    """Let every output of a verb exist already; gives what must be left of them."""
    (here / "out").mkdir()
    for name in OUTPUTS[verb]:
        (here / "out" / name).write_bytes(b"old " + name.encode())
    return contents(here / "out")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_runs_on_good_files(verb: str, here: Path, ddrs_cli):
    before = contents(here)
    code, out, err = ddrs_cli(*COMMANDS[verb])
    assert (code, err) == (0, "")
    assert {name for name in OUTPUTS[verb] if not (here / "out" / name).is_file()} == set()
    after = contents(here)
    assert all(after[path] == data for path, data in before.items()), "an input was changed"
    assert not list((here / "out").rglob("*.tmp")) and not list(here.glob("scratch/*"))
    if verb == "merge":
        assert (here / "out" / "l.tsv").read_bytes() == (here / "log.tsv").read_bytes()
    if verb == "envelope":
        assert out.splitlines()[0] == "log,0,0.25,acr" and out.splitlines()[2].startswith("envelope,")


def test_a_cached_boundary_file_of_another_key_or_damaged_is_said_in_one_line_and_replaced(here: Path, ddrs_cli, monkeypatch: pytest.MonkeyPatch):
    """Its name says the key: a file under that name that says another, or nothing, is not used, and the result is as without it."""
    words = [*COMMANDS["certify"], "--protocol", "sequential", "--radii", "0.25", "--alpha"]
    for folder, alpha in (("two", 0.02), ("one", 0.01)):
        monkeypatch.setenv("DDRS_CACHE", str(here / folder))
        assert ddrs_cli(*words, alpha)[0] == 0
    (right,), (wrong,) = ((here / folder).glob("boundaries-*") for folder in ("one", "two"))
    old = contents(here / "out")
    for content in (wrong.read_bytes(), right.read_bytes()[:-100], b""):
        third = here / f"three{len(content)}" / right.name
        third.parent.mkdir()
        third.write_bytes(content)
        monkeypatch.setenv("DDRS_CACHE", str(third.parent))
        with pytest.warns(DdrsWarning) as told:
            assert ddrs_cli(*words, 0.01)[0] == 0
        (line,) = [warnings.formatwarning(one.message, one.category, one.filename, one.lineno) for one in told]
        assert line.startswith(f"ddrs: boundaries {third}: ") and line.endswith("; they are computed again\n") and line.count("\n") == 1
        assert third.read_bytes() == right.read_bytes() and contents(here / "out") == old


# files that cannot be used


@pytest.mark.parametrize(("verb", "name"), READS, ids=[f"{verb} {name}" for verb, name in READS])
def test_a_missing_file_is_named_and_nothing_is_overwritten(verb: str, name: str, here: Path, ddrs_cli):
    (here / name).unlink()
    old = with_old_outputs(here, verb)
    one_line(ddrs_cli(*COMMANDS[verb]), "ddrs: error: ", name, "such file")
    assert contents(here / "out") == old


DAMAGED = [(verb, name, damage) for verb, name in READS for damage in ("empty", "binary", "truncated")]
DAMAGED.remove(("export", "times.tsv", "truncated"))  # a kill tears its last line: that one is skipped


@pytest.mark.parametrize(("verb", "name", "damage"), DAMAGED)
def test_a_damaged_file_is_named_and_nothing_is_overwritten(verb: str, name: str, damage: str, here: Path, ddrs_cli):
    data = (here / name).read_bytes()
    cut = data.rstrip(b"\n").rfind(b"\t") if name.endswith(".tsv") else len(data) // 2
    (here / name).write_bytes({"empty": b"", "binary": b"\x93\xff\x00\xfe" * 300, "truncated": data[:cut]}[damage])
    old = with_old_outputs(here, verb)
    one_line(ddrs_cli(*COMMANDS[verb]), "ddrs: error: ", name)
    assert contents(here / "out") == old


@pytest.mark.parametrize("verb", ["train", "sigma", "certify", "remember"])
def test_a_damaged_array_of_the_dataset_is_named(verb: str, here: Path, ddrs_cli):
    for split in ("train", "test"):
        path = here / "data" / f"{split}.images.npy"
        path.write_bytes(path.read_bytes()[:-1])
    old = with_old_outputs(here, verb)
    one_line(ddrs_cli(*COMMANDS[verb]), "images.npy", "checksum")
    assert contents(here / "out") == old


def test_a_folder_in_the_place_of_an_output_is_one_line(here: Path, ddrs_cli):
    (here / "out" / "e.tsv").mkdir(parents=True)
    one_line(ddrs_cli(*COMMANDS["export"]), "e.tsv")


def test_a_file_in_the_place_of_an_output_folder_is_one_line(here: Path, ddrs_cli):
    (here / "out").write_text("a file")
    one_line(ddrs_cli(*COMMANDS["export"]), "out")
    assert (here / "out").read_text() == "a file"


# a full disk


@pytest.mark.parametrize(("verb", "name"), [(verb, name) for verb, names in OUTPUTS.items() for name in names])
def test_a_full_disk_is_one_line_and_the_old_file_stays(verb: str, name: str, here: Path, ddrs_cli):
    old = with_old_outputs(here, verb)
    path = here / "out" / name
    temporary_of(path).symlink_to("/dev/full")  # where the file is written before it is renamed
    one_line(ddrs_cli(*COMMANDS[verb]), "ddrs: error: ", f"{name}: the disk is full")
    assert path.read_bytes() == old[path]
    assert [p.name for p in (here / "out").iterdir() if p not in old and p.suffix == ".tmp"] == []
    if verb in ("train", "finetune", "certify"):
        assert name == "b" or list((here / "scratch").iterdir()), "the work that was done is kept, so that the verb can be run again"


# flags


WRONG_FLAGS = [
    ("train", ["--epochs", "0"], ["epochs", "greater than or equal to 1"]),
    ("train", ["--learning-rate", "-1"], ["learning_rate", "greater than 0"]),
    ("train", ["--learning-rate", "nan"], ["learning_rate", "finite"]),
    ("train", ["--sigma", "-0.25"], ["sigma = -0.25", "> 0"]),
    ("train", ["--sigma", "0"], ["sigma = 0", "> 0"]),
    ("train", ["--sigma", "nan"], ["sigma = nan", "> 0"]),
    ("train", ["--method", "cohn"], ["method 'cohn'", "known are cohen, "]),
    ("train", ["--architecture", "vgg"], ["architecture 'vgg'", "small_cnn, resnet18"]),
    ("train", ["--branch-epoch", "2"], ["branch_epoch = 2 is beyond epochs = 1"]),
    ("train", ["--loss", "epsilon=0.5"], ["'epsilon' of cohen", "allowed are none"]),
    ("train", ["--device", "gpu"], ["device 'gpu'", "cpu, cuda or cuda:N"]),
    ("train", ["--threads", "0"], ["threads", "greater than or equal to 1"]),
    ("finetune", ["--sigma-max", "0.0001"], ["sigma_min", "sigma_max = 0.0001"]),
    ("finetune", ["--epochs", "1"], ["branch.pt", "after epoch 1"]),
    ("sigma", ["--k-max", "0"], ["k_max", "greater than or equal to 1"]),
    ("sigma", ["--images", "31"], ["31 images", "the split has 30"]),
    ("certify", ["--k", "4"], ["sigmas.parquet", "K = 4", "0 to 3"]),
    ("certify", ["--sigma", "0.25"], ["--sigma", "--sigmas"]),
    ("certify", ["--alpha", "0"], ["alpha", "greater than 0"]),
    ("certify", ["--alpha", "1"], ["alpha", "less than 1"]),
    ("certify", ["--n", "9"], ["n = 9", "at least 10 is needed"]),
    ("certify", ["--n0", "0"], ["n0", "greater than or equal to 1"]),
    ("certify", ["--n", "0"], ["n: ", "greater than or equal to 1"]),
    ("certify", ["--protocol", "sequential"], ["protocol sequential: needs radii"]),
    ("certify", ["--protocol", "sequential", "--radii", "0.5", "--radii", "0.25"], ["radii: must be increasing", "[0.5, 0.25]"]),
    ("certify", ["--protocol", "sequential", "--radii", "0.5", "--bound", "joint"], ["bound: joint is for protocols fixed and two-stage"]),
    ("certify", ["--protocol", "sequential", "--radii", "0.5", "--n", "20000000"], ["20000000", "10000000"]),
    ("certify", ["--bound", "joint", "--n", "10"], ["n = 10 is too small", "alpha = 0.0005", "at least 11"]),
    ("certify", ["--precision", "tf32"], ["precision 'tf32'", "CUDA"]),
    ("certify", ["--noise", "uniform"], ["noise 'uniform'", "trained with gaussian", "gaussian or lattice"]),
    ("certify", ["--shard", "3/2"], ["--shard '3/2'", "I/N with 1 <= I <= N"]),
    ("certify", ["--shard", "0/2"], ["--shard '0/2'", "I/N"]),
    ("certify", ["--shard", "1"], ["--shard '1'", "I/N"]),
    ("certify", ["--shard", "1/x"], ["--shard '1/x'", "I/N"]),
    ("certify", ["--shard", "1/3"], ["--shard 1/3", "3 shards of 2 images"]),
    ("envelope", ["--radii", "0,-1"], ["--radii", "'0,-1'", "increasing"]),
    ("envelope", ["--radii", "a,b"], ["--radii", "'a,b'", "numbers"]),
    ("envelope", ["--radii", "0,inf"], ["--radii", "finite"]),
    ("envelope", ["--radii", "0,nan"], ["--radii", "finite"]),
    ("envelope", ["--radii", "1,0.5"], ["--radii", "increasing"]),
    ("envelope", ["--radii", ""], ["--radii", "numbers"]),
    ("envelope", ["--format", "html"], ["format 'html'", "csv, md or tex"]),
    ("cell", ["--label", "smoothadv"], ["log.tsv", "cohen", "smoothadv"]),
    ("fetch", ["--source", "absent"], ["absent", "not a folder"]),
    ("fetch", ["--source", "data"], ["mnist5k", "no source folder"]),
]


@pytest.mark.parametrize(("verb", "more", "parts"), WRONG_FLAGS, ids=[f"{verb} {' '.join(more)}" for verb, more, _ in WRONG_FLAGS])
def test_a_value_out_of_range_is_one_line_that_says_what_is_allowed(verb: str, more: list[str], parts: list[str], here: Path, ddrs_cli):
    old = with_old_outputs(here, verb)
    one_line(ddrs_cli(*COMMANDS[verb], *more), *parts)
    assert contents(here / "out") == old


WRONG_WORDS = [
    (["trian"], ["trian"]),
    ([*COMMANDS["train"], "--epochs", "many"], ["--epochs", "integer"]),
    ([*COMMANDS["train"], "--sigma", "small"], ["--sigma", "number"]),
    ([*COMMANDS["train"], "--optimizer", "sdg"], ["--optimizer", "sgd", "adam"]),
    ([*COMMANDS["train"], "--learning-rte", "1"], ["--learning-rte"]),
    ([*COMMANDS["train"], "--seed", "-1"], ["--seed", "greater than or equal to 0"]),
    (["train", *DATA], ["--out"]),
    (["certify", *MODEL, "--out", "o"], ["--data"]),
    ([*COMMANDS["certify"], "--protocol", "horvath"], ["--protocol", "fixed", "sequential", "two-stage"]),
    ([*COMMANDS["certify"], "--precision", "float8"], ["--precision", "bfloat16"]),
    ([*COMMANDS["certify"], "--batch-size", "0"], ["--batch-size", "greater than or equal to 1"]),
    (["merge", "--out", "o"], ["shards"]),
    ([*COMMANDS["certify"], "--images", "0"], ["--images", "greater than or equal to 1"]),
    ([*COMMANDS["sigma"], "--objective-class", "best"], ["--objective-class", "current", "fixed"]),
    ([*COMMANDS["sigma"], "--split", "tset"], ["--split", "'tset'", "train", "validation", "test"]),
    (["envelope", "--radii", "0"], ["logs"]),
    (["fetch", "mnist5k", "--out", "o", "--validation", "-1"], ["--validation", "greater than or equal to 0"]),
]


@pytest.mark.parametrize(("words", "parts"), WRONG_WORDS, ids=[f"{words[0]} {' '.join(words[-2:])}" for words, _ in WRONG_WORDS])
def test_words_that_the_parser_refuses_are_one_line(words: list[str], parts: list[str], here: Path, ddrs_cli):
    before = contents(here)
    err = one_line(ddrs_cli(*words), "ddrs: error: ")
    assert [part for part in parts if part not in err.lower()] == [], err
    assert contents(here) == before


@pytest.mark.parametrize("command", [[sys.executable, "-m", "ddrs"], [str(Path(sys.executable).parent / "ddrs")]], ids=["module", "script"])
def test_the_process_ends_with_one_line_and_a_code(command: list[str], tmp_path: Path):
    words = ["export", tmp_path / "absent.tsv", "--out", tmp_path / "out.tsv"]
    found = subprocess.run([*command, *map(str, words)], capture_output=True, text=True, check=False)
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr == f"ddrs: error: certification log {tmp_path / 'absent.tsv'}: no such file\n"


def test_help_lists_every_verb(ddrs_cli):
    code, out, err = ddrs_cli("--help")
    assert (code, err) == (0, "")
    assert all(verb in out for verb in COMMANDS)
    code, out, _ = ddrs_cli("certify", "--help")
    assert code == 0 and all(word in out for word in ("--n0", "--alpha", "--sigmas"))


# what is loaded


HEAVY = ("torch", "torchvision", "matplotlib")


def loaded_by(code: str, cwd: Path) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after some code."""
    code += f"\nimport sys\nprint('LOADED', *[name for name in {(*HEAVY, 'pandas')!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cwd)
    return set(found.stdout.rsplit("LOADED", 1)[1].split())


VERB = """
import sys
import warnings
from ddrs.commands.main import main
sys.argv = ["ddrs", *{words!r}]
try:
    main()
except SystemExit as exit:
    assert not exit.code, exit.code
"""


@pytest.mark.parametrize(
    "code", ["import ddrs, ddrs.experiment.config, ddrs.provenance, ddrs.commands.main", VERB.format(words=["--help"])], ids=["import", "--help"]
)
def test_parsing_a_config_or_showing_help_loads_nothing_heavy(code: str, here: Path):
    assert loaded_by(code, here) == set()


def test_the_verbs_and_their_lines_are_those_of_the_modules():
    """The table by which `ddrs --help` lists them without loading one: the module, and the first paragraph of the docstring."""
    found = {verb: (loaded(verb).callback.__module__, loaded(verb).help.split("\n\n")[0]) for verb in VERBS}
    assert {verb: (module, " ".join(line.split())) for verb, (module, line) in found.items()} == {
        verb: (f"ddrs.commands.{module}", line) for verb, (module, line) in VERBS.items()
    }
    modules = {path.stem for path in Path(main.__file__).parent.glob("*.py")} - {"__init__", "main", "flags"}
    assert {module for module, _ in VERBS.values()} == modules and set(typer.main.get_group(app).commands) == set(VERBS)


def test_a_verb_loads_no_other_group():
    code = "import sys\n" + VERB.format(words=["table", "--help"])
    code += "print('LOADED', *sorted(name for name in sys.modules if name.startswith('ddrs.')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    carried = {"ddrs.commands", "ddrs.commands.main", "ddrs.commands.flags", "ddrs.errors", "ddrs.files", "ddrs.sections"}
    assert set(found.stdout.rsplit("LOADED", 1)[1].split()) == carried | {"ddrs.commands.results", "ddrs.rows"}


@pytest.mark.parametrize("verb", ["envelope", "remember", "cell", "table", "merge"])
def test_verbs_that_read_logs_load_no_torch(verb: str, here: Path):
    assert loaded_by(VERB.format(words=COMMANDS[verb]), here) == {"pandas"}


def test_the_public_names_are_there_and_stay_callable(tmp_path: Path):
    code = """
from ddrs import ABSTAIN, Certificate, DdrsError, Memory, as_float, certify, load_model, load_split, lower_confidence_bound, optimize_sigma
import ddrs, ddrs.certification.engine, ddrs.certification.run, ddrs.sigma.run, ddrs.memory, ddrs.training.run
assert ABSTAIN == -1
for name in ddrs.__all__:
    assert name in dir(ddrs)
assert ddrs.certify is certify and callable(ddrs.certify) and callable(ddrs.optimize_sigma) and callable(ddrs.load_model)
assert isinstance(ddrs.Memory(), Memory) and issubclass(ddrs.DdrsError, ValueError)
assert 0.9 < lower_confidence_bound(1000, 1000, 0.001) < 1
try:
    ddrs.absent
except AttributeError as error:
    assert "absent" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)

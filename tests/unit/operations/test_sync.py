"""`ddrs sync` and `ddrs lock-status` where no experiment is needed; with one: tests/workflow/test_remote.py."""

import base64
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ddrs.errors import DdrsError
from ddrs.operations.sync import objects, read_lock, stale, unrecorded

ROOT = Path(__file__).parents[3]
LOCK = """
schema: '2.0'
stages:
  make:
    cmd: {command}
    deps:
    - {{path: code.py, hash: md5, md5: d41d8cd98f00b204e9800998ecf8427e, size: 0}}
    outs:
    - {{path: results/a.csv, hash: md5, md5: 60b725f10c9c85c70d97880dfe8191b3, size: 2}}
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository of one stage, whose output no clone has yet, as the current folder."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (tmp_path / "dvc.yaml").write_text("stages: {make: {cmd: make it, deps: [code.py], outs: [results/a.csv: {persist: true}]}}\n")
    (tmp_path / "dvc.lock").write_text(LOCK.format(command="make it"))
    (tmp_path / "code.py").touch()
    return tmp_path


def test_lock_status_tells_a_fresh_lock_from_a_stale_one(repository: Path, ddrs_cli: Callable) -> None:
    assert ddrs_cli("lock-status") == (0, "dvc.lock fits code and config\n", "")
    (repository / "code.py").write_text("x = 1\n")
    assert ddrs_cli("lock-status") == (0, "dvc.lock is stale: make: code.py\n", "")
    (repository / "code.py").write_text("")
    (repository / "dvc.lock").write_text(LOCK.format(command="made another way"))
    assert ddrs_cli("lock-status") == (0, "dvc.lock is stale: make: changed command\n", "")


def test_ci_reports_the_lock(tmp_path: Path) -> None:
    assert "make lock-status" in (ROOT / ".ci/run").read_text().splitlines()
    assert "$(RUN) ddrs lock-status" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(("absent", "named"), [("dvc.yaml", "no dvc.yaml"), ("dvc.lock", "no dvc.lock"), ("remote", "dvc remote add -d")])
def test_without_a_lock_or_a_remote_sync_is_one_line(absent: str, named: str, repository: Path, ddrs_cli: Callable) -> None:
    (repository / absent).unlink(missing_ok=True)
    code, out, err = ddrs_cli("sync")
    assert (code, out) == (2, "") and err.startswith("ddrs: error: sync: ") and err.count("\n") == 1 and named in err


CONFLICT = "<<<<<<< HEAD\n    - {path: results/a.csv}\n=======\n    - {path: results/b.csv}\n>>>>>>> other\n"
BAD = {
    "conflict": (LOCK + CONFLICT, "dvc.lock: not valid YAML; an unfinished merge?"),
    "empty": ("", "dvc.lock: has no stages; `dvc repro` writes them"),
    "absent": (None, "no dvc.lock here, so nothing is stored yet; `dvc repro` writes it"),
}


@pytest.mark.parametrize("verb", ["sync", "lock-status"])
@pytest.mark.parametrize("case", BAD)
def test_a_lock_that_can_not_be_read_is_one_line_of_the_verb(case: str, verb: str, repository: Path, ddrs_cli: Callable) -> None:
    text, message = BAD[case]
    (repository / "dvc.lock").unlink() if text is None else (repository / "dvc.lock").write_text(text)
    assert ddrs_cli(verb) == (2, "", f"ddrs: error: {verb}: {message}\n")


def test_what_dvc_says_is_of_the_verb(repository: Path, ddrs_cli: Callable) -> None:
    (repository / "dvc.yaml").write_text("stages: 1\n")
    code, out, err = ddrs_cli("lock-status")
    assert (code, out) == (2, "") and err.startswith("ddrs: error: lock-status: ") and err.count("\n") == 1


def test_sync_leaves_a_folder_alone_in_which_snakemake_is_at_work(repository: Path, ddrs_cli: Callable) -> None:
    lock = repository / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("results/a.csv\n")
    code, _, err = ddrs_cli("sync", "--no-pull")
    assert code == 2 and "at work in this folder" in err and lock.exists()


def test_what_the_cache_lacks_is_named(repository: Path, ddrs_cli: Callable) -> None:
    """And a result that lies here, but not in the cache, stays."""
    (repository / "results").mkdir()
    (repository / "results/a.csv").write_text("b\n")
    (repository / "dvc.lock").write_text(
        LOCK.format(command="make it") + "    - {path: results/b.csv, hash: md5, md5: abc12300000000000000000000000000, size: 2}\n"
    )
    (repository / "dvc.yaml").write_text("stages: {make: {cmd: make it, deps: [code.py], outs: [results/a.csv, results/b.csv]}}\n")
    place = repository / ".dvc/cache/files/md5/60/b725f10c9c85c70d97880dfe8191b3"
    place.parent.mkdir(parents=True)
    place.write_text("a\n")
    code, _, err = ddrs_cli("sync", "--no-pull")
    assert code == 2 and "DVC's cache lacks objects of dvc.lock: results/b.csv (files/md5/ab/c12300000000000000000000000000)" in err
    place.write_text("c\n")
    code, _, err = ddrs_cli("sync", "--no-pull")
    assert code == 2 and f"damaged objects: results/a.csv ({place.relative_to(repository / '.dvc/cache')})" in err
    assert (repository / "results/a.csv").read_text() == "b\n"


@pytest.mark.parametrize("md5", ["../../../../../mine", "60b725f10c9c85c70d97880dfe8191b", "60B725F10C9C85C70D97880DFE8191B3", "", "null", "[1]"])
def test_an_md5_that_is_none_reaches_no_file(md5: str, repository: Path, ddrs_cli: Callable) -> None:
    """It would be a path, and what lies there not what it says: a damaged object, which is deleted."""
    (repository / "mine").write_text("precious\n")
    (repository / "dvc.lock").write_text(LOCK.format(command="make it").replace("60b725f10c9c85c70d97880dfe8191b3", md5))
    code, _, err = ddrs_cli("sync", "--no-pull")
    assert code == 2 and err.startswith("ddrs: error: sync: ") and err.count("\n") == 1 and "Traceback" not in err
    assert (repository / "mine").read_text() == "precious\n"


@pytest.mark.parametrize("listed", ['[{"relpath": "x", "md5": "../../../../../mine"}]', '[{"relpath": "x"}]', "[1]", "{"])
def test_nor_does_one_in_the_list_of_a_folder(listed: str, repository: Path) -> None:
    (repository / "mine").write_text("precious\n")
    md5 = hashlib.md5(listed.encode()).hexdigest()
    place = repository / f"cache/files/md5/{md5[:2]}/{md5[2:]}.dir"
    place.parent.mkdir(parents=True)
    place.write_text(listed)
    lock = {"stages": {"make": {"outs": [{"path": "results/models", "md5": f"{md5}.dir"}]}}}
    with pytest.raises(DdrsError, match=r"sync: results/models(/x)?: DVC's (record|list) of "):
        list(objects(lock, repository / "cache"))


def test_stale_is_all_but_the_state_of_outputs(repository: Path) -> None:
    status = {
        "make": [
            {"changed deps": {"results/a.csv": "deleted", "config.yaml": {"certify": "modified", "seed": "new"}}},
            {"changed outs": {"results/a.csv": "not in cache", "results/new.csv": "deleted"}},
            "changed command",
        ],
        "other": [{"changed outs": {"results/a.csv": "modified"}}],
    }
    assert stale(status, read_lock("sync")) == ["make: config.yaml: certify, config.yaml: seed, results/new.csv and 1 more"]


def test_a_file_without_a_record_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = ["results/a/x.tsv", "results/b.csv", "results/" + 200 * "l"]
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    assert list(unrecorded("results")) == sorted(paths)
    names = [base64.urlsafe_b64encode(path.encode()).decode() for path in paths]
    for record in (f"metadata/{names[0]}", f"incomplete/{names[1]}", f"metadata/@{names[2][:100]}/{names[2][100:]}"):
        place = Path(".snakemake") / record
        assert list(unrecorded("results"))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    assert not list(unrecorded("results")) and not list(unrecorded("nowhere"))

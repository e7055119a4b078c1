"""Snakemake on the project's Snakefile, and one real run of the whole DAG on tests/configs/tiny.yaml, shared by the tests of this folder."""

import importlib
import io
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from snakemake.cli import main
from warm import warm as warm_programs

from ddrs.experiment.config import Config

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "configs" / "tiny.yaml"
PROGRAMS = Path(sys.executable).parent


def snakemake(
    *words: object, folder: Path, config: Path | None = TINY, check: bool = True, programs: Path = PROGRAMS
) -> subprocess.CompletedProcess[str]:
    """Run snakemake on the project's Snakefile, with another folder as its working directory. programs: those of `warm` start at once."""
    command = [str(programs / "snakemake"), *_words(words, folder, config)]
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return _checked(done) if check else done


def dry(*words: object, folder: Path, config: Path | None = TINY, check: bool = True) -> subprocess.CompletedProcess[str]:
    """What `snakemake -n` says and returns, without a process, whose start takes longer than most plans."""
    done = in_process(*_words(("-n", *words), folder, config))
    return _checked(done) if check else done


def in_process(*words: object) -> subprocess.CompletedProcess[str]:
    """A command line of Snakemake that runs no job, in this process and in its current folder, which are left as they were."""
    arguments = [*map(str, words)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    importlib.invalidate_caches()  # a new process would see files of the same second
    with (
        chdir("."),
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "argv", ["snakemake", *arguments]),
        mock.patch.object(sys, "path", [*sys.path]),
        mock.patch.object(logging.root, "handlers", []),  # pytest's own; without any, the last resort of `logging` is stderr
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main(arguments)
        except SystemExit as exit:
            if isinstance(exit.code, str):
                print(exit.code, file=sys.stderr)
            code = exit.code if isinstance(exit.code, int) else 1
    folder = Path(arguments[arguments.index("--directory") + 1] if "--directory" in arguments else ".")
    (folder / f".snakemake/runs/{socket.gethostname()}.{os.getpid()}.json").unlink(missing_ok=True)  # it ends with the process, which lives on
    return subprocess.CompletedProcess(["snakemake", *arguments], code, out.getvalue(), err.getvalue())


@contextmanager
def keys_read() -> Iterator[set[str]]:
    """The top-level keys of a checked config that are read while it lasts."""
    found: set[str] = set()

    def get(settings: Config, name: str) -> Any:
        found.update({name} & Config.model_fields.keys())
        return object.__getattribute__(settings, name)

    with mock.patch.object(Config, "__getattribute__", get):
        yield found


def _words(words: tuple[object, ...], folder: Path, config: Path | None) -> list[str]:
    overlay = ["--configfile", str(config)] if config else []
    return ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder), "--nocolor", *overlay, *map(str, words)]


def _checked(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    if done.returncode:
        raise AssertionError(f"{' '.join(done.args)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    return done


@pytest.fixture
def plan_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ddrs plan` asks Snakemake in this process."""
    start = subprocess.run

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return in_process(*command[3:]) if command[1:3] == ["-m", "snakemake"] else start(command, **options)

    monkeypatch.setattr(subprocess, "run", run)


@pytest.fixture(scope="session")
def warm() -> Iterator[Path]:
    """Programs for `snakemake`, which start at once."""
    with warm_programs() as programs:
        yield programs


@pytest.fixture(scope="session")
def tiny(warm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the finished run."""
    folder = tmp_path_factory.mktemp("tiny")
    snakemake("--cores", 2, "paper", folder=folder, programs=warm)
    return folder

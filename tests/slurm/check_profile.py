"""profiles/slurm on a real SLURM: jobs go through sbatch, and a cancelled or requeued one costs nothing. Run by `make test-cluster`."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
import cluster as slurm

ROOT = Path(__file__).parents[2]
OVERLAYS = [ROOT / "tests/configs/tiny.yaml", ROOT / "tests/slurm/overlay.yaml"]
TARGET = "results/table1.csv"
LOG = Path("logs/train/mnist5k/cohen/fs/sigma_0.25.log")
OFTEN = ("--slurm-init-seconds-before-status-checks", 2)
LIMIT = 900  # seconds until a run is given up


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.Cluster]:
    if lacking := slurm.missing():
        pytest.fail(f"{', '.join(lacking)}: not on this machine; apt-get install slurm-wlm munge", pytrace=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the daemons are stopped then, too
    with slurm.running(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


class Run:
    """A command that works in the background in `folder`."""

    def __init__(self, folder: Path, words: list[object], environment: dict[str, str]):
        path = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.environ['PATH'])}"
        self.output = folder / "output.txt"
        with open(self.output, "w") as out:
            command = [*map(str, words)]
            surroundings = {**os.environ, **environment, "PATH": path}
            self.process = subprocess.Popen(command, cwd=folder, env=surroundings, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that must happen while it runs."""
        end = time.monotonic() + LIMIT
        while not condition():
            assert self.process.poll() is None and time.monotonic() < end, self.output.read_text()[-6000:]
            time.sleep(0.2)

    def stop(self) -> None:
        """Kill it and what it started on this machine, if any of that still runs."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> str:
        """What it printed, once it is over."""
        try:
            code = self.process.wait(LIMIT)
        finally:
            self.stop()
        assert code == 0, self.output.read_text()[-6000:]
        return self.output.read_text()


def snakemake(folder: Path, *words: object) -> list[object]:
    own = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder, "--nocolor"]
    return [*own, "--configfile", *OVERLAYS, *words]


def results(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in (folder / "results").rglob("*") if path.is_file()}


def says(log: Path, text: str) -> bool:
    return log.exists() and text in log.read_text()


def jobs_of(cluster: slurm.Cluster, rule: str) -> list[dict[str, str]]:
    return [job for job in cluster.jobs().values() if job.get("Comment", "").startswith(f"rule_{rule}_wildcards")]


def only_running(cluster: slurm.Cluster, rule: str) -> str:
    (job,) = [job for job in jobs_of(cluster, rule) if job["JobState"] == "RUNNING"]
    return job["JobId"]


def prepared(folder: Path, mnist5k: Path) -> Path:
    folder.mkdir()
    shutil.copytree(mnist5k.parent, folder / "data/mnist5k")
    return folder


def test_a_cancelled_and_a_requeued_job_lose_nothing(cluster: slurm.Cluster, mnist5k: Path, tmp_path: Path) -> None:
    here, there = prepared(tmp_path / "here", mnist5k), prepared(tmp_path / "there", mnist5k)
    undisturbed = Run(here, snakemake(here, "--cores", 1, "--", TARGET), {})
    profile = ("--workflow-profile", ROOT / "profiles/slurm", "--slurm-array-jobs", "certify_shard", *OFTEN)
    disturbed = Run(there, snakemake(there, *profile, "--", TARGET), cluster.environment)
    try:
        disturbed.until(lambda: says(there / LOG, "epoch 2/6"))
        cancelled = only_running(cluster, "train")
        cluster.call("scancel", cancelled)
        disturbed.until(lambda: says(there / LOG, "resuming after epoch") and says(there / LOG, "epoch 4/6"))
        preempted = only_running(cluster, "train")
        cluster.call("scontrol", "requeue", preempted)
        said = disturbed.end()
        undisturbed.end()
    finally:
        disturbed.stop()
        undisturbed.stop()

    assert results(there) == results(here) and (here / TARGET).exists()
    assert re.search(r"resuming after epoch [45] of 6", (there / LOG).read_text())

    facts = {job["JobId"]: (job["JobState"], job["Restarts"]) for job in jobs_of(cluster, "train")}
    assert facts == {cancelled: ("CANCELLED", "0"), preempted: ("COMPLETED", "1")}  # Snakemake's retry is a new job, SLURM's the same one
    asked = {(job["TimeLimit"], job["MinMemoryNode"]) for job in jobs_of(cluster, "train")}
    assert asked == {("2-00:00:00", "16000M")}
    assert [len(jobs_of(cluster, rule)) for rule in ("finetune", "sigma", "remember_mnist5k")] == [1, 2, 2]
    shards = jobs_of(cluster, "certify_shard")  # of rows fs, ds and ds2, three each: those that are ready at once are one array
    assert len(shards) == 9 and len({job["ArrayJobId"] for job in shards}) <= 3 and {job["JobState"] for job in shards} == {"COMPLETED"}
    assert not any(jobs_of(cluster, rule) for rule in ("merge", "cells_table1_mnist5k", "table"))  # too small for a job
    assert 'Provided resources: gpu=Resource("gpu", 100)' in said


def test_dvc_on_a_login_node_submits_through_the_profile(cluster: slurm.Cluster, mnist5k: Path, tmp_path: Path) -> None:
    """The stage's command is the committed one; $SNAKEMAKE_PROFILE says where it runs."""
    from ddrs.experiment.load import load
    from ddrs.operations.overlays import fitted

    clone = tmp_path / "clone"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in tracked:
        if name and not name.startswith(("docs/", "tests/", "dvc.lock")):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    shutil.copytree(mnist5k.parent, clone / "data/mnist5k")
    merged = yaml.safe_load((ROOT / "config.yaml").read_text())
    for overlay in [*OVERLAYS, None]:
        short = {"train": {"mnist5k": {"cohen": {"epochs": 2, "branch_epoch": 1}}}}
        merge(merged, yaml.safe_load(overlay.read_text()) if overlay else short)
    (clone / "config.yaml").write_text(yaml.safe_dump(merged))
    stages = clone / "dvc.yaml"
    stages.write_text(fitted(stages.read_text(), load(merged)))  # as `ddrs use` does
    for command in (["git", "init", "-q"], ["git", "add", "-A"]):
        subprocess.run(command, cwd=clone, check=True)

    before = set(cluster.jobs())
    environment = {**cluster.environment, "SNAKEMAKE_PROFILE": "profiles/slurm", "SBATCH_PARTITION": "work", "PYTHONPATH": "src"}
    said = Run(clone, [sys.executable, "-m", "dvc", "repro", "models"], environment).end()
    assert (clone / "results/models/mnist5k/cohen/ds2/sigma_0.25.safetensors").exists()
    new = [job for id, job in cluster.jobs().items() if id not in before]
    assert sorted(job["Comment"].split("_")[1] for job in new) == ["finetune", "train"]
    assert {job["JobState"] for job in new} == {"COMPLETED"} and {job["Partition"] for job in new} == {"work"}
    assert "> snakemake --cores all models\n" in said  # the command of every host


def merge(base: dict, over: dict) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = value


def test_a_cluster_without_default_partition_is_one_line_before_any_job(tmp_path: Path, mnist5k: Path, cluster: slurm.Cluster) -> None:
    folder = prepared(tmp_path / "run", mnist5k)
    cluster.call("scontrol", "update", "PartitionName=work", "Default=NO")
    before = set(cluster.jobs())
    run = Run(folder, snakemake(folder, "--workflow-profile", ROOT / "profiles/slurm", "--", TARGET), cluster.environment)
    try:
        assert run.process.wait(LIMIT)
    finally:
        run.stop()
        cluster.call("scontrol", "update", "PartitionName=work", "Default=YES")
    lines = [line for line in run.output.read_text().splitlines() if line.startswith("ddrs: error:")]
    assert lines == ["ddrs: error: SLURM: the cluster has no default partition; export SBATCH_PARTITION=NAME with one of: work"]
    assert "Traceback" not in run.output.read_text() and set(cluster.jobs()) == before

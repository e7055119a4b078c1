"""A SLURM cluster of one node on this machine, for tests: its daemons, ports, keys and state are its own, and end with it.

It needs the programs of Debian's `slurm-wlm` and `munge`, no root, no cgroups and no accounting database.
"""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # where they live; a user's PATH may lack it
CONFIGURATION = """
ClusterName=ddrs
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PreemptType=preempt/none
ReturnToService=2
KillWait=5
MinJobAge=600
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=500000 State=UNKNOWN
PartitionName=work Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The daemons that this machine lacks."""
    return [name for name in DAEMONS if not shutil.which(name, path=f"{os.environ['PATH']}:{SBIN}")]


@dataclass
class Cluster:
    """A running one. folder: its configuration, logs and state."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it, on top of its own environment."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": f"{self.folder}/bin:{os.environ['PATH']}:{SBIN}"}

    def call(self, *words: object) -> str:
        """The output of a SLURM command."""
        done = subprocess.run([*map(str, words)], env={**os.environ, **self.environment}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, words))}: {done.stdout}{done.stderr}")
        return done.stdout

    def jobs(self) -> dict[str, dict[str, str]]:
        """What the controller knows of each job, by id (of an array's task JOB_TASK); finished ones stay for MinJobAge."""
        found = {}
        for line in self.call("scontrol", "show", "job", "--all", "--oneliner").splitlines():
            facts = dict(word.split("=", 1) for word in line.split() if "=" in word)
            if "ArrayTaskId" in facts:
                facts["JobId"] = f"{facts['ArrayJobId']}_{facts['ArrayTaskId']}"
            if "JobId" in facts:
                found[facts["JobId"]] = facts
        return found


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster with `folder`, which must not exist, as its place; whatever runs on it when the block ends is killed."""
    host = socket.gethostname().partition(".")[0]
    (folder / "munge").mkdir(parents=True, mode=0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    cluster = Cluster(folder)
    key = folder / "munge" / "key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    ctld_port, d_port = _free_ports(2)
    facts = {"host": host, "user": getpass.getuser(), "folder": folder, "ctld_port": ctld_port, "d_port": d_port}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**facts))
    _srun(cluster)
    with ExitStack() as stack:
        stack.callback(_kill_everything_of, cluster)
        munge = [f"--{name}-file={folder}/munge/{name}" for name in ("key", "pid", "log", "seed")]
        stack.enter_context(_daemon(cluster, "munged", "--foreground", "--force", f"--socket={folder}/munge/socket", *munge))
        _until(lambda: (folder / "munge/socket").exists(), 30, cluster, "munged made no socket")
        stack.enter_context(_daemon(cluster, "slurmctld", "-D", "-c"))
        stack.enter_context(_daemon(cluster, "slurmd", "-D", "-N", host))
        _until(lambda: "idle" in _quietly(cluster, "sinfo", "-h", "-o", "%T"), 60, cluster, "the node did not come up")
        yield cluster


def _srun(cluster: Cluster) -> None:
    """An srun that knows its cluster: Snakemake's executor takes every SLURM variable, SLURM_CONF too, from the step that it starts."""
    shim = cluster.folder / "bin" / "srun"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nSLURM_CONF={cluster.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    shim.chmod(0o755)


@contextmanager
def _daemon(cluster: Cluster, name: str, *words: str) -> Iterator[None]:
    environment = {**os.environ, **cluster.environment}
    with open(cluster.folder / f"{name}.out", "wb") as out:
        program = shutil.which(name, path=environment["PATH"])
        process = subprocess.Popen([program or name, *words], env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _kill_everything_of(cluster: Cluster) -> None:
    """Kill what still has this cluster in its environment: job steps live on without their slurmd."""
    mark = f"{cluster.folder}/".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                os.kill(int(folder.name), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            continue  # it ended meanwhile, or is another user's


def _quietly(cluster: Cluster, *words: str) -> str:
    try:
        return cluster.call(*words)
    except RuntimeError:
        return ""


def _until(condition: Callable[[], bool], seconds: float, cluster: Cluster, complaint: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            logs = "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-2000:]}" for path in cluster.folder.rglob("*.[ol][uo][tg]"))
            raise RuntimeError(f"{complaint}\n{logs}")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]

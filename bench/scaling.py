"""How the workflow scales with workers: wall time of the same run at 1, 2, ... cores, each from nothing in a folder of its own.

    python bench/scaling.py > bench/scaling.md
    python bench/scaling.py --config tests/configs/tiny.yaml --cores 2 1

A job has one thread, whatever the cores, so N workers are N jobs side by side. Efficiency is speed-up over the first line, divided by how many times
its workers there are. Processor time is that of Snakemake and all its jobs: where it grows with the workers, they hinder each other. Measure on
a machine that does nothing else. The embedded suite takes about an hour on one core.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(cores: int, target: str, config: Path | None) -> tuple[float, float, int]:
    """Wall time, processor time and number of jobs of a run that starts with nothing."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", str(cores), "--nocolor"]
    if config:
        command += ["--configfile", str(config.resolve())]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as folder:
        before, started = processor_seconds(), time.perf_counter()
        done = subprocess.run([*command, "--directory", folder, "--", target], capture_output=True, text=True, env=environment, check=False)
        wall, used = time.perf_counter() - started, processor_seconds() - before
        if done.returncode:
            sys.exit(f"snakemake --cores {cores} {target} failed:\n{done.stderr[-3000:]}")
        jobs = sum(1 for path in Path(folder, "logs", "benchmarks").rglob("*.tsv"))
    return wall, used, jobs


def processor_seconds() -> float:
    """Of all child processes that have ended, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, help="an overlay; default: the shipped config.yaml alone")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--target", default="paper")
    given = parser.parse_args()
    config = f" --configfile {given.config}" if given.config else ""
    print(f"`snakemake{config} --cores N {given.target}` from nothing (`bench/scaling.py`), {os.cpu_count()} cores.\n")
    print("| workers | jobs | wall time | processor time | speed-up | efficiency |\n| --- | --- | --- | --- | --- | --- |")
    first = None
    for cores in given.cores:
        wall, used, jobs = run(cores, given.target, given.config)
        first = first or wall
        speed_up = first / wall
        efficiency = speed_up * given.cores[0] / cores
        print(f"| {cores} | {jobs} | {wall:,.0f} s | {used:,.0f} s | {speed_up:.2f} | {efficiency:.0%} |", flush=True)


if __name__ == "__main__":
    main()

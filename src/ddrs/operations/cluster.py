"""What a SLURM cluster must offer before jobs are submitted to it."""

import os
import subprocess
from collections.abc import Container

from ddrs.errors import DdrsError


def partition_given(default_resources: Container[str]) -> bool:
    """Whether jobs name a partition: by Snakemake's default resources, by its own choice from a file, or because sbatch reads SBATCH_PARTITION."""
    return "slurm_partition" in default_resources or any(os.environ.get(name) for name in ("SNAKEMAKE_SLURM_PARTITIONS", "SBATCH_PARTITION"))


def require_default_partition() -> None:
    """DdrsError unless `sinfo` shows a default partition; each job would be refused, and tried again, without one."""
    try:
        listed = subprocess.run(["sinfo", "--noheader", "--format=%P"], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    except FileNotFoundError:
        raise DdrsError("SLURM: `sinfo` is not on the PATH; this profile is for the login node of a SLURM cluster") from None
    except subprocess.TimeoutExpired:
        raise DdrsError("SLURM: `sinfo` gave no answer within a minute; is the cluster's controller up?") from None
    except subprocess.CalledProcessError as error:
        raise DdrsError(f"SLURM: `sinfo` failed: {' '.join(error.stderr.split())}") from None
    if not any(name.endswith("*") for name in listed):
        known = ", ".join(listed) or "none"
        raise DdrsError(f"SLURM: the cluster has no default partition; export SBATCH_PARTITION=NAME with one of: {known}")

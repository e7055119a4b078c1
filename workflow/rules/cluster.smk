import os

from ddrs.cluster import require_default_partition


# Runs where `snakemake` was called, before the first job; not in a dry run, nor in the jobs.
onstart:
    given = ["slurm_partition" in (workflow.resource_settings.default_resources or {}), "SNAKEMAKE_SLURM_PARTITIONS" in os.environ]
    if workflow.executor_plugin.name == "slurm" and not any([*given, workflow.executor_settings.partition_config]):
        try:
            require_default_partition()
        except DdrsError as error:
            sys.exit(f"ddrs: error: {error}")

from ddrs.operations.cluster import partition_given, require_default_partition


# Runs where `snakemake` was called, before the first job; not in a dry run, nor in the jobs.
onstart:
    if workflow.executor_plugin.name == "slurm" and not workflow.executor_settings.partition_config:
        try:
            if not partition_given(workflow.resource_settings.default_resources or {}):
                require_default_partition()
        except DdrsError as error:
            sys.exit(f"ddrs: error: {error}")

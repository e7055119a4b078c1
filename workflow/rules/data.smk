from ddrs.data.splits import check_fetched
from ddrs.experiment.preflight import check_counts
from ddrs.operations.fitting import check_fitting
from ddrs.experiment.preflight import check_dates, check_results
from ddrs.operations.sync import mark_incomplete

# Data is pinned: it is fetched once, and no change of code or config fetches it again. (Snakemake 9.27 would otherwise skip, in the run
# that fetches, every other reason to rerun a step behind an ancient() input.) So what lies there must be what the config says.
try:
    for name, dataset_settings in settings.datasets.items():
        manifest = Path(MANIFEST.format(dataset=name))
        check_fetched(manifest, {"dataset": name, **dataset_settings.fetched()})
        check_counts(manifest, name, dataset_settings.images)
        if workflow.is_main_process and not workflow.touch:
            check_results(manifest, name)
    # What DVC or a hand put in the place of this config's results, Snakemake's records still praise as these. (Here `workflow` does not know
    # yet whether it is to touch. A touch that is not seen records what the next run finds.)
    if workflow.is_main_process:
        if "--touch" not in sys.argv:
            results = (path for path in Path("results").rglob("*") if path.is_file())
            check_dates([*Path("data").glob("*/manifest.json"), *graph.published_files(), *results])
        mark = None if workflow.output_settings.dryrun else mark_incomplete
        check_fitting(settings, "--touch" in sys.argv, jobs.params_of_result, logger.warning, mark)
except DdrsError as error:
    sys.exit(f"ddrs: error: {error}")


rule fetch:
    output:
        manifest=MANIFEST,
    log:
        "logs/fetch/{dataset}.log",
    benchmark:
        "logs/benchmarks/fetch/{dataset}.tsv"
    retries: 2
    params:
        flags=jobs.fetch,
    message:
        "Fetch {wildcards.dataset}"
    shell:
        "ddrs fetch {wildcards.dataset} --out {output.manifest} {params.flags} > {log} 2>&1"

def memory_passes(dataset):
    """What one job passes through the memory: a suffix of its name, its place, its runs, and which other runs than a table's are meant.

    For tables all K of a row at a sigma; of the runs that only a figure shows, each its own, so that a target needs no other's.
    """
    ks = [str(k) for k in settings.certify[dataset].k]
    others = rf"(ds|ds2)/sigma_\d+\.\d\d\.K_(?!({'|'.join(ks)})\.)\d+|gds/sigma_\d+\.\d\d\.K_\d+"
    of_tables = [f"{{row}}/sigma_{{sigma}}.K_{k}" for k in ks]
    return [("", "{row}/sigma_{sigma}", of_tables, others), ("_run", "{run}", ["{run}"], others)]


# K is a list per dataset, and so is the output of one job: hence a rule per dataset.
for name in certified_datasets:
    for suffix, place, runs, others in memory_passes(name):

        rule:
            name:
                f"remember{suffix}_{name}"
            input:
                data=ancient(f"data/{name}/manifest.json"),
                logs=[f"{CERTIFICATES}/{run}.tsv".replace("{dataset}", name) for run in runs],
            output:
                logs=[f"{MEMORY}/{run}.tsv".replace("{dataset}", name) for run in runs],
            log:
                f"logs/remember/{name}/{{split}}/{{method}}/{place}.log",
            benchmark:
                f"logs/benchmarks/remember/{name}/{{split}}/{{method}}/{place}.tsv"
            wildcard_constraints:
                run=others,
            params:
                folder=subpath(output[0], parent=True),
                code=code("remember"),
            message:
                "Pass {wildcards.method} through the memory: {output.logs}"
            shell:
                "ddrs remember {input.logs} --data {input.data} --out-dir {params.folder} > {log} 2>&1"

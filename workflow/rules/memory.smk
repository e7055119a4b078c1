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

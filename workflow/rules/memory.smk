# K is a list per dataset, and so is the output of one job: hence a rule per dataset.
for name in certified_datasets:

    rule:
        name:
            f"remember_{name}"
        input:
            data=ancient(f"data/{name}/manifest.json"),
            logs=expand(f"{CERTIFICATES}/{{row}}/sigma_{{sigma}}.K_{{K}}.tsv", dataset=name, K=settings.certify[name].k, allow_missing=True),
        output:
            logs=expand(f"{MEMORY}/{{row}}/sigma_{{sigma}}.K_{{K}}.tsv", dataset=name, K=settings.certify[name].k, allow_missing=True),
        log:
            f"logs/remember/{name}/{{split}}/{{method}}/{{row}}/sigma_{{sigma}}.log",
        benchmark:
            f"logs/benchmarks/remember/{name}/{{split}}/{{method}}/{{row}}/sigma_{{sigma}}.tsv"
        params:
            folder=subpath(output[0], parent=True),
            code=code("remember"),
        message:
            "Pass {wildcards.method}-{wildcards.row} from sigma {wildcards.sigma} through the memory"
        shell:
            "ddrs remember {input.logs} --data {input.data} --out-dir {params.folder} > {log} 2>&1"

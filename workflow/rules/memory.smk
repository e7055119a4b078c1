# K is a list per dataset, and so is the output of one job: hence a rule per dataset.
for remember in graph.passes():

    rule:
        name:
            remember.rule
        input:
            data=ancient(MANIFEST.format(dataset=remember.dataset)),
            logs=remember.logs(CERTIFICATE),
        output:
            logs=remember.logs(MEMORY),
        log:
            f"logs/remember/{remember.place}.log",
        benchmark:
            f"logs/benchmarks/remember/{remember.place}.tsv"
        wildcard_constraints:
            run=remember.pattern,
        params:
            folder=subpath(output[0], parent=True),
            code=jobs.code("remember"),
        message:
            "Pass {wildcards.method} through the memory: {output.logs}"
        shell:
            "ddrs remember {input.logs} --data {input.data} --out-dir {params.folder} > {log} 2>&1"

# K is a list per dataset, and so is the output of one job: hence a rule per dataset.
for name in graph.certified():
    for one in graph.passes(name):

        rule:
            name:
                f"remember{one.suffix}_{name}"
            input:
                data=ancient(MANIFEST.replace("{dataset}", name)),
                logs=[CERTIFICATE.replace("{dataset}", name).replace("{run}", run) for run in one.runs],
            output:
                logs=[MEMORY.replace("{dataset}", name).replace("{run}", run) for run in one.runs],
            log:
                f"logs/remember/{name}/{{split}}/{{method}}/{one.place}.log",
            benchmark:
                f"logs/benchmarks/remember/{name}/{{split}}/{{method}}/{one.place}.tsv"
            wildcard_constraints:
                run=one.pattern,
            params:
                folder=subpath(output[0], parent=True),
                code=jobs.code("remember"),
            message:
                "Pass {wildcards.method} through the memory: {output.logs}"
            shell:
                "ddrs remember {input.logs} --data {input.data} --out-dir {params.folder} > {log} 2>&1"

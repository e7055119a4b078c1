rule sigma:
    input:
        data=ancient(MANIFEST),
        model=jobs.model_of_search,
    output:
        sigmas=SIGMAS,
    log:
        "logs/sigma/{dataset}/{split}/{method}/{search}.log",
    benchmark:
        "logs/benchmarks/sigma/{dataset}/{split}/{method}/{search}.tsv"
    resources:
        gpu=jobs.gpu,
    params:
        flags=jobs.search,
        runtime=jobs.runtime,
        sidecar="logs/sigma/{dataset}/{split}/{method}/{search}",
        code=jobs.search_code,
    message:
        "Search sigma per image: {wildcards.method} {wildcards.search} on {wildcards.dataset} {wildcards.split}"
    shell:
        "ddrs sigma --model {input.model} --data {input.data} --out {output.sigmas}"
        " {params.flags} {params.runtime} --sidecar {params.sidecar}.json > {log} 2>&1"

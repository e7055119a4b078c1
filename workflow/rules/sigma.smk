rule sigma:
    input:
        data=ancient("data/{dataset}/manifest.json"),
        model=model_of_search,
    output:
        sigmas="results/sigmas/{dataset}/{split}/{method}/{search}.parquet",
    log:
        "logs/sigma/{dataset}/{split}/{method}/{search}.log",
    benchmark:
        "logs/benchmarks/sigma/{dataset}/{split}/{method}/{search}.tsv"
    threads: 1
    resources:
        gpu=gpu,
    params:
        flags=search_flags,
        runtime=runtime,
        sidecar="logs/sigma/{dataset}/{split}/{method}/{search}",
        code=search_code,
    message:
        "Search sigma per image: {wildcards.method} {wildcards.search} on {wildcards.dataset} {wildcards.split}"
    shell:
        "ddrs sigma --model {input.model} --data {input.data} --out {output.sigmas}"
        " {params.flags} {params.runtime} --sidecar {params.sidecar}.json > {log} 2>&1"

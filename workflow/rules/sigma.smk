rule sigma:
    input:
        data=ancient("data/{dataset}/manifest.json"),
        model="results/models/{dataset}/{method}/{regime}/sigma_{sigma}.safetensors",
    output:
        sigmas="results/sigmas/{dataset}/{split}/{method}/{regime}/sigma_{sigma}.parquet",
    log:
        "logs/sigma/{dataset}/{split}/{method}/{regime}/sigma_{sigma}.log",
    benchmark:
        "logs/benchmarks/sigma/{dataset}/{split}/{method}/{regime}/sigma_{sigma}.tsv"
    threads: 1
    resources:
        gpu=gpu,
    params:
        flags=search_flags,
        runtime=runtime,
        sidecar="logs/sigma/{dataset}/{split}/{method}/{regime}/sigma_{sigma}",
        code=code("sigma"),
    message:
        "Search sigma per image: {wildcards.method} {wildcards.regime} from {wildcards.sigma} on {wildcards.dataset} {wildcards.split}"
    shell:
        "ddrs sigma --model {input.model} --data {input.data} --out {output.sigmas}"
        " {params.flags} {params.runtime} --sidecar {params.sidecar}.json > {log} 2>&1"

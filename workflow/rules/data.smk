rule fetch:
    output:
        manifest="data/{dataset}/manifest.json",
    log:
        "logs/fetch/{dataset}.log",
    benchmark:
        "logs/benchmarks/fetch/{dataset}.tsv"
    retries: 2
    params:
        flags=fetch_flags,
        code=code("fetch"),
    shell:
        "ddrs fetch {wildcards.dataset} --out {output.manifest} {params.flags} > {log} 2>&1"

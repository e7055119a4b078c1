# Data is pinned: it is fetched once, and no change of code or config fetches it again. (Snakemake 9.27 would otherwise skip, in the run
# that fetches, every other reason to rerun a step behind an ancient() input.)
rule fetch:
    output:
        manifest="data/{dataset}/manifest.json",
    log:
        "logs/fetch/{dataset}.log",
    benchmark:
        "logs/benchmarks/fetch/{dataset}.tsv"
    retries: 2
    params:
        source=source_flag,
    message:
        "Fetch {wildcards.dataset}"
    shell:
        "ddrs fetch {wildcards.dataset} --out {output.manifest} {params.source} > {log} 2>&1"

localrules:
    merge,


# {run} is what one log is of: a row at a sigma, for DS rows with K, as in fs/sigma_0.25 or ds2/sigma_0.25.K_900.
rule certify:
    input:
        unpack(inputs_of_run),
    output:
        log=f"{CERTIFICATES}/{{run}}.tsv",
    log:
        "logs/certify/{dataset}/{split}/{method}/{run}.log",
    benchmark:
        "logs/benchmarks/certify/{dataset}/{split}/{method}/{run}.tsv"
    wildcard_constraints:
        dataset=one_of(whole_datasets),
    threads: 1
    resources:
        gpu=gpu,
    params:
        scale=scale_flags,
        flags=certify_flags,
        runtime=runtime,
        sidecar="logs/certify/{dataset}/{split}/{method}/{run}",
        code=code("certify"),
    message:
        "Certify {wildcards.method} {wildcards.run} on {wildcards.dataset} {wildcards.split}"
    shell:
        "ddrs certify --model {input.model} --data {input.data} {params.scale} --out {output.log} {params.flags}"
        " {params.runtime} --sidecar {params.sidecar}.json --times {params.sidecar}.times.tsv > {log} 2>&1"


# The same in parts, where config says `shards`: each part is a job, and the parts together are byte for byte what one job would write.
rule certify_shard:
    input:
        unpack(inputs_of_run),
    output:
        log=temp("scratch/shards/{dataset}/{split}/{method}/{run}/{shard}-of-{shards}.tsv"),
    log:
        "logs/certify/{dataset}/{split}/{method}/{run}.{shard}-of-{shards}.log",
    benchmark:
        "logs/benchmarks/certify/{dataset}/{split}/{method}/{run}.{shard}-of-{shards}.tsv"
    threads: 1
    resources:
        gpu=gpu,
    params:
        scale=scale_flags,
        flags=certify_flags,
        runtime=runtime,
        sidecar="logs/certify/{dataset}/{split}/{method}/{run}.{shard}-of-{shards}",
        code=code("certify"),
    message:
        "Certify {wildcards.method} {wildcards.run} on {wildcards.dataset} {wildcards.split}, shard {wildcards.shard} of {wildcards.shards}"
    shell:
        "ddrs certify --model {input.model} --data {input.data} {params.scale} --out {output.log} --shard {wildcards.shard}/{wildcards.shards}"
        " {params.flags} {params.runtime} --sidecar {params.sidecar}.json --times {params.sidecar}.times.tsv > {log} 2>&1"


rule merge:
    input:
        shards=shards_of_run,
    output:
        log=f"{CERTIFICATES}/{{run}}.tsv",
    log:
        "logs/merge/{dataset}/{split}/{method}/{run}.log",
    benchmark:
        "logs/benchmarks/merge/{dataset}/{split}/{method}/{run}.tsv"
    wildcard_constraints:
        dataset=one_of(sharded_datasets),
    params:
        flags=certify_flags,  # in no command, but the record of what the log is of: that of its shards goes with them
        certified=code("certify"),
        code=code("merge"),
    message:
        "Merge the shards of {wildcards.method} {wildcards.run} on {wildcards.dataset} {wildcards.split}"
    shell:
        "ddrs merge {input.shards} --out {output.log} > {log} 2>&1"

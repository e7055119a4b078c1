# {run} is what one log is of: a row at a sigma, for DS rows with K, as in fs/sigma_0.25 or ds2/sigma_0.25.K_900.
rule certify:
    input:
        data=ancient(MANIFEST),
        model=jobs.model_of_run,
        sigmas=jobs.sigmas_of_run,
    output:
        log=CERTIFICATE,
    log:
        "logs/certify/{dataset}/{split}/{method}/{run}.log",
    benchmark:
        "logs/benchmarks/certify/{dataset}/{split}/{method}/{run}.tsv"
    wildcard_constraints:
        dataset=graph.whole,
    resources:
        gpu=jobs.gpu,
    params:
        scale=jobs.scale,
        shard=jobs.shard,
        flags=jobs.certify,
        runtime=jobs.runtime,
        sidecar="logs/certify/{dataset}/{split}/{method}/{run}",
        code=jobs.certify_code,
    message:
        "Certify {wildcards.method} {wildcards.run} on {wildcards.dataset} {wildcards.split}"
    shell:
        "ddrs certify --model {input.model} --data {input.data} {params.scale} --out {output.log}{params.shard} {params.flags}"
        " {params.runtime} --sidecar {params.sidecar}.json --times {params.sidecar}.times.tsv > {log} 2>&1"


# The same in parts, where config says `shards`: each part is a job, and the parts together are byte for byte what one job would write.
use rule certify as certify_shard with:
    output:
        log=temp(SHARD),
    log:
        "logs/certify/{dataset}/{split}/{method}/{run}.{shard}-of-{shards}.log",
    benchmark:
        "logs/benchmarks/certify/{dataset}/{split}/{method}/{run}.{shard}-of-{shards}.tsv"
    wildcard_constraints:
        dataset=graph.sharded,
    params:
        sidecar="logs/certify/{dataset}/{split}/{method}/{run}.{shard}-of-{shards}",
    message:
        "Certify {wildcards.method} {wildcards.run} on {wildcards.dataset} {wildcards.split}, shard {wildcards.shard} of {wildcards.shards}"


rule merge:
    input:
        shards=jobs.shards,
    output:
        log=CERTIFICATE,
    log:
        "logs/merge/{dataset}/{split}/{method}/{run}.log",
    benchmark:
        "logs/benchmarks/merge/{dataset}/{split}/{method}/{run}.tsv"
    wildcard_constraints:
        dataset=graph.sharded,
    localrule: True
    params:
        flags=jobs.certify,  # in no command, but the record of what the log is of: that of its shards goes with them
        certified=jobs.certify_code,
        code=jobs.code("merge"),
    message:
        "Merge the shards of {wildcards.method} {wildcards.run} on {wildcards.dataset} {wildcards.split}"
    shell:
        "ddrs merge {input.shards} --out {output.log} > {log} 2>&1"

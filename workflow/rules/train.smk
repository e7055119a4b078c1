rule train:
    input:
        data=ancient(MANIFEST),
    output:
        model=MODEL,
        branch=BRANCH,
    log:
        "logs/train/{dataset}/{method}/{regime}/sigma_{sigma}.log",
    benchmark:
        "logs/benchmarks/train/{dataset}/{method}/{regime}/sigma_{sigma}.tsv"
    wildcard_constraints:
        dataset=graph.trained,
        regime=graph.starting,
    resources:
        gpu=jobs.gpu,
    params:
        flags=jobs.train,
        runtime=jobs.runtime,
        sidecar="logs/train/{dataset}/{method}/{regime}/sigma_{sigma}",
        code=jobs.train_code,
    message:
        "Train {wildcards.method} on {wildcards.dataset} with sigma {wildcards.sigma}"
    shell:
        "ddrs train --data {input.data} --method {wildcards.method} --sigma {wildcards.sigma} --out {output.model}"
        " --branch-out {output.branch} {params.flags} {params.runtime} --sidecar {params.sidecar}.json > {log} 2>&1"


# In place of training, where config's `checkpoints` names a published model.
rule import_checkpoint:
    input:
        file=jobs.published,
    output:
        model=MODEL,
    log:
        "logs/import/{dataset}/{method}/{regime}/sigma_{sigma}.log",
    benchmark:
        "logs/benchmarks/import/{dataset}/{method}/{regime}/sigma_{sigma}.tsv"
    wildcard_constraints:
        dataset=graph.imported,
        regime=graph.starting,
    params:
        flags=jobs.import_checkpoint,
        sidecar="logs/import/{dataset}/{method}/{regime}/sigma_{sigma}",
        code=jobs.import_code,
    message:
        "Import the published {wildcards.method} of {wildcards.dataset} with sigma {wildcards.sigma}"
    shell:
        "ddrs import-checkpoint {input.file:q} --sigma {wildcards.sigma} --out {output.model} {params.flags}"
        " --sidecar {params.sidecar}.json > {log} 2>&1"


rule finetune:
    input:
        data=ancient(MANIFEST),
        model=jobs.start,
        branch=jobs.branch,
    output:
        model=MODEL,
    log:
        "logs/train/{dataset}/{method}/{regime}/sigma_{sigma}.log",
    benchmark:
        "logs/benchmarks/train/{dataset}/{method}/{regime}/sigma_{sigma}.tsv"
    wildcard_constraints:
        regime=graph.tuned,
    resources:
        gpu=jobs.gpu,
    params:
        flags=jobs.finetune,
        branch=jobs.branch_flag,
        runtime=jobs.runtime,
        sidecar="logs/train/{dataset}/{method}/{regime}/sigma_{sigma}",
        code=jobs.finetune_code,
    message:
        "Train {wildcards.method} on {wildcards.dataset} with a sigma per example from {wildcards.sigma} (DS2)"
    shell:
        "ddrs finetune --data {input.data} --model {input.model} {params.branch} --out {output.model}"
        " {params.flags} {params.runtime} --sidecar {params.sidecar}.json > {log} 2>&1"

rule train:
    input:
        data=ancient("data/{dataset}/manifest.json"),
    output:
        model="results/models/{dataset}/{method}/fs/sigma_{sigma}.safetensors",
        branch="results/models/{dataset}/{method}/fs/sigma_{sigma}.branch.pt",
    log:
        "logs/train/{dataset}/{method}/fs/sigma_{sigma}.log",
    benchmark:
        "logs/benchmarks/train/{dataset}/{method}/fs/sigma_{sigma}.tsv"
    wildcard_constraints:
        dataset=trained_datasets,
    threads: 1
    resources:
        gpu=gpu,
    params:
        flags=train_flags,
        runtime=runtime,
        sidecar="logs/train/{dataset}/{method}/fs/sigma_{sigma}",
        code=method_code("train"),
    message:
        "Train {wildcards.method} on {wildcards.dataset} with sigma {wildcards.sigma}"
    shell:
        "ddrs train --data {input.data} --method {wildcards.method} --sigma {wildcards.sigma} --out {output.model}"
        " --branch-out {output.branch} {params.flags} {params.runtime} --sidecar {params.sidecar}.json > {log} 2>&1"


# In place of training, where config's `checkpoints` names a published model.
rule import_checkpoint:
    input:
        file=published_file,
    output:
        model="results/models/{dataset}/{method}/fs/sigma_{sigma}.safetensors",
    log:
        "logs/import/{dataset}/{method}/fs/sigma_{sigma}.log",
    benchmark:
        "logs/benchmarks/import/{dataset}/{method}/fs/sigma_{sigma}.tsv"
    wildcard_constraints:
        dataset=imported_datasets,
    params:
        flags=import_flags,
        sidecar="logs/import/{dataset}/{method}/fs/sigma_{sigma}",
        code=import_code,
    message:
        "Import the published {wildcards.method} of {wildcards.dataset} with sigma {wildcards.sigma}"
    shell:
        "ddrs import-checkpoint {input.file:q} --sigma {wildcards.sigma} --out {output.model} {params.flags}"
        " --sidecar {params.sidecar}.json > {log} 2>&1"


rule finetune:
    input:
        data=ancient("data/{dataset}/manifest.json"),
        model="results/models/{dataset}/{method}/fs/sigma_{sigma}.safetensors",
        branch=finetune_branch,
    output:
        model="results/models/{dataset}/{method}/ds2/sigma_{sigma}.safetensors",
    log:
        "logs/train/{dataset}/{method}/ds2/sigma_{sigma}.log",
    benchmark:
        "logs/benchmarks/train/{dataset}/{method}/ds2/sigma_{sigma}.tsv"
    threads: 1
    resources:
        gpu=gpu,
    params:
        flags=finetune_flags,
        branch=branch_flag,
        runtime=runtime,
        sidecar="logs/train/{dataset}/{method}/ds2/sigma_{sigma}",
        code=method_code("finetune"),
    message:
        "Train {wildcards.method} on {wildcards.dataset} with a sigma per example from {wildcards.sigma} (DS2)"
    shell:
        "ddrs finetune --data {input.data} --model {input.model} {params.branch} --out {output.model}"
        " {params.flags} {params.runtime} --sidecar {params.sidecar}.json > {log} 2>&1"

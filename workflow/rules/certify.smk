rule certify:
    input:
        data=ancient("data/{dataset}/manifest.json"),
        model="results/models/{dataset}/{method}/fs/sigma_{sigma}.safetensors",
    output:
        log=f"{CERTIFICATES}/fs/sigma_{{sigma}}.tsv",
    log:
        "logs/certify/{dataset}/{split}/{method}/fs/sigma_{sigma}.log",
    benchmark:
        "logs/benchmarks/certify/{dataset}/{split}/{method}/fs/sigma_{sigma}.tsv"
    threads: 1
    resources:
        gpu=gpu,
    params:
        flags=certify_flags,
        runtime=runtime,
        sidecar="logs/certify/{dataset}/{split}/{method}/fs/sigma_{sigma}",
        code=code("certify"),
    message:
        "Certify {wildcards.method} with sigma {wildcards.sigma} on {wildcards.dataset} {wildcards.split}"
    shell:
        "ddrs certify --model {input.model} --data {input.data} --sigma {wildcards.sigma} --out {output.log} {params.flags}"
        " {params.runtime} --sidecar {params.sidecar}.json --times {params.sidecar}.times.tsv > {log} 2>&1"


rule certify_data_dependent:
    input:
        data=ancient("data/{dataset}/manifest.json"),
        model=data_dependent_model,
        sigmas=data_dependent_sigmas,
    output:
        log=f"{CERTIFICATES}/{{row}}/sigma_{{sigma}}.K_{{K}}.tsv",
    log:
        "logs/certify/{dataset}/{split}/{method}/{row}/sigma_{sigma}.K_{K}.log",
    benchmark:
        "logs/benchmarks/certify/{dataset}/{split}/{method}/{row}/sigma_{sigma}.K_{K}.tsv"
    threads: 1
    resources:
        gpu=gpu,
    params:
        flags=certify_flags,
        runtime=runtime,
        sidecar="logs/certify/{dataset}/{split}/{method}/{row}/sigma_{sigma}.K_{K}",
        code=code("certify"),
    message:
        "Certify {wildcards.method}-{wildcards.row} from sigma {wildcards.sigma}, K = {wildcards.K}, on {wildcards.dataset} {wildcards.split}"
    shell:
        "ddrs certify --model {input.model} --data {input.data} --sigmas {input.sigmas} --k {wildcards.K} --out {output.log} {params.flags}"
        " {params.runtime} --sidecar {params.sidecar}.json --times {params.sidecar}.times.tsv > {log} 2>&1"

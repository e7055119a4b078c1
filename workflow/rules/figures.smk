localrules:
    figures,
    figure,
    examples,


rule figures:
    input:
        graph.figures(),


rule figure:
    input:
        logs=jobs.logs_of_figure,
    output:
        pdf="results/figure{number}.pdf",
        png="results/figure{number}.png",
        caption="results/captions/figure{number}.md",
    log:
        "logs/figures/figure{number}.log",
    benchmark:
        "logs/benchmarks/figures/figure{number}.tsv"
    wildcard_constraints:
        number="[34578]",
    params:
        flags=jobs.figure,
        order=order(jobs.logs_of_figure),
        made=jobs.made_of_figure,
        code=jobs.code("figure"),
    message:
        "Draw figure {wildcards.number}"
    shell:
        "ddrs figure {input.logs} {params.flags} --pdf {output.pdf} --png {output.png}"
        " --caption {output.caption} --title 'Figure {wildcards.number}' {params.made} > {log} 2>&1"


rule examples:
    input:
        data=ancient(jobs.data_of_examples),
        logs=jobs.searched_examples,
        fixed=jobs.fixed_examples,
    output:
        pdf="results/figure{number}.pdf",
        png="results/figure{number}.png",
        caption="results/captions/figure{number}.md",
    log:
        "logs/figures/figure{number}.log",
    benchmark:
        "logs/benchmarks/figures/figure{number}.tsv"
    wildcard_constraints:
        number="[69]",
    params:
        data=flagged("--data", "data"),
        fixed=flagged("--fixed", "fixed"),
        flags=jobs.examples,
        order=order(jobs.data_of_examples, jobs.searched_examples, jobs.fixed_examples),
        made=jobs.made_of_figure,
        code=jobs.code("examples"),
    message:
        "Draw figure {wildcards.number}"
    shell:
        "ddrs examples {input.logs} {params.data} {params.fixed} {params.flags} --pdf {output.pdf} --png {output.png}"
        " --caption {output.caption} --title 'Figure {wildcards.number}' {params.made} > {log} 2>&1"


rule illustrate:
    output:
        pdf="results/figure{number}.pdf",
        png="results/figure{number}.png",
        caption="results/captions/figure{number}.md",
    log:
        "logs/figures/figure{number}.log",
    benchmark:
        "logs/benchmarks/figures/figure{number}.tsv"
    wildcard_constraints:
        number="[12]",
    params:
        subject=jobs.subject,
        seed=settings.seed,
        code=jobs.code("illustrate"),
    message:
        "Draw figure {wildcards.number}"
    shell:
        "ddrs illustrate {params.subject} --pdf {output.pdf} --png {output.png} --seed {params.seed}"
        " --caption {output.caption} --title 'Figure {wildcards.number}' > {log} 2>&1"

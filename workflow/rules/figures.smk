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
    localrule: True
    params:
        verb="figure",
        data=flagged("--data", "data", lead=" "),
        fixed=flagged("--fixed", "fixed", lead=" "),
        flags=jobs.figure,
        order=order(jobs.logs_of_figure),
        recipe=jobs.recipe_of_figure,
        code=jobs.code("figure"),
    message:
        "Draw figure {wildcards.number}"
    shell:
        "ddrs {params.verb} {input.logs}{params.data}{params.fixed} {params.flags} --pdf {output.pdf} --png {output.png}"
        " --caption {output.caption} --title 'Figure {wildcards.number}' {params.recipe} > {log} 2>&1"


use rule figure as examples with:
    input:
        data=ancient(jobs.data_of_examples),
        logs=jobs.searched_examples,
        fixed=jobs.fixed_examples,
    wildcard_constraints:
        number="[69]",
    localrule: True
    params:
        verb="examples",
        flags=jobs.examples,
        order=order(jobs.data_of_examples, jobs.searched_examples, jobs.fixed_examples),
        code=jobs.code("examples"),


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
        number=graph.illustrated,
    localrule: True
    params:
        subject=jobs.subject,
        seed=settings.seed,
        code=jobs.code("illustrate"),
    message:
        "Draw figure {wildcards.number}"
    shell:
        "ddrs illustrate {params.subject} --pdf {output.pdf} --png {output.png} --seed {params.seed}"
        " --caption {output.caption} --title 'Figure {wildcards.number}' > {log} 2>&1"

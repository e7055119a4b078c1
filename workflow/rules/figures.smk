localrules:
    figures,
    figure,
    examples,


rule figures:
    input:
        figure_files(),


rule figure:
    input:
        logs=logs_of_figure,
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
        flags=figure_flags,
        order=order(logs_of_figure),
        made=made_of_figure,
        code=code("figure"),
    message:
        "Draw figure {wildcards.number}"
    shell:
        "ddrs figure {input.logs} {params.flags} --pdf {output.pdf} --png {output.png}"
        " --caption {output.caption} --title 'Figure {wildcards.number}' {params.made} > {log} 2>&1"


rule examples:
    input:
        data=example_data,
        logs=example_logs("ds"),
        fixed=example_logs("fs"),
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
        flags=example_flags,
        order=order(example_data, example_logs("ds"), example_logs("fs")),
        made=made_of_figure,
        code=code("examples"),
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
        subject=subject,
        seed=settings.seed,
        code=code("illustrate"),
    message:
        "Draw figure {wildcards.number}"
    shell:
        "ddrs illustrate {params.subject} --pdf {output.pdf} --png {output.png} --seed {params.seed}"
        " --caption {output.caption} --title 'Figure {wildcards.number}' > {log} 2>&1"

rule figure:
    input:
        logs=logs_of_figure,
    output:
        pdf="results/figure{number}.pdf",
        png=report("results/figure{number}.png", caption="../report/figure.rst", category="Figures", labels={"figure": "{number}"}),
    log:
        "logs/figures/figure{number}.log",
    benchmark:
        "logs/benchmarks/figures/figure{number}.tsv"
    params:
        caption=figure_caption,
        code=code("figure"),
    message:
        "Draw figure {wildcards.number}"
    shell:
        "ddrs figure {input.logs} --pdf {output.pdf} --png {output.png} > {log} 2>&1"

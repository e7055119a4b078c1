rule tables:
    input:
        graph.tables(),


# The radii are a list per table, dataset and method, and so is the output of one job: hence a rule for each.
for cells in graph.cell_jobs():

    rule:
        name:
            cells.rule
        input:
            logs=cells.logs,
            validation=cells.validation,
            before=cells.before,
        output:
            cells=cells.files,
        log:
            f"logs/cells/{cells.table}/{cells.dataset}/{{label}}.log",
        benchmark:
            f"logs/benchmarks/cells/{cells.table}/{cells.dataset}/{{label}}.tsv"
        wildcard_constraints:
            label=cells.labels,
        localrule: True
        params:
            table=cells.table,
            radii=",".join(cells.radii),
            folder=subpath(output[0], parent=True),
            choice=jobs.choice(cells),
            validation=flagged("--validation", "validation"),
            before=flagged("--before", "before"),
            recipe=jobs.recipe_of_cells(cells),
            seed=settings.seed,
            code=jobs.code("cell"),
        message:
            "Cells of {params.table}, row {wildcards.label}"
        shell:
            "ddrs cell {input.logs} --table {params.table} --label {wildcards.label} --radii {params.radii}"
            " --out-dir {params.folder} {params.choice} {params.validation} {params.before}"
            " --recipe {params.recipe} --seed {params.seed} > {log} 2>&1"


# A verb writes all files of its result or none, but Snakemake removes the former ones before a job starts. Its flag `update` would keep them, and
# must not stand here: it puts them back after a failed job with a new time, so that the next run takes them for what the changed inputs give.
rule table:
    input:
        cells=jobs.cells_of_table,
    output:
        csv="results/{table}{selected}.csv",
        md="results/{table}{selected}.md",
        tex="results/{table}{selected}.tex",
    log:
        "logs/tables/{table}{selected}.log",
    benchmark:
        "logs/benchmarks/tables/{table}{selected}.tsv"
    localrule: True
    params:
        order=order(jobs.cells_of_table),
        code=jobs.code("table"),
    message:
        "Assemble {wildcards.table}{wildcards.selected}"
    shell:
        "ddrs table {input.cells} --csv {output.csv} --md {output.md} --tex {output.tex} > {log} 2>&1"


rule comparison:
    input:
        cells=jobs.both_cells,
    output:
        csv="results/{table}_comparison.csv",
        md="results/{table}_comparison.md",
    log:
        "logs/tables/{table}_comparison.log",
    benchmark:
        "logs/benchmarks/tables/{table}_comparison.tsv"
    localrule: True
    params:
        order=order(jobs.both_cells),
        code=jobs.code("compare"),
    message:
        "Set {wildcards.table} beside the print"
    shell:
        "ddrs compare {input.cells} --csv {output.csv} --md {output.md} > {log} 2>&1"


rule claims:
    input:
        cells=jobs.all_cells,
    output:
        csv="results/claims.csv",
        md="results/claims.md",
    log:
        "logs/tables/claims.log",
    benchmark:
        "logs/benchmarks/tables/claims.tsv"
    localrule: True
    params:
        order=order(jobs.all_cells),
        code=jobs.code("claims"),
    message:
        "Check the paper's headline sentences"
    shell:
        "ddrs claims {input.cells} --csv {output.csv} --md {output.md} > {log} 2>&1"


rule per_class:
    input:
        logs=jobs.logs_of_table,
        cells=jobs.selected_cells,
    output:
        csv="results/per_class_{table}.csv",
        md="results/per_class_{table}.md",
    log:
        "logs/tables/per_class_{table}.log",
    benchmark:
        "logs/benchmarks/tables/per_class_{table}.tsv"
    localrule: True
    params:
        cells=flagged("--cell", "cells"),
        order=order(jobs.logs_of_table, jobs.selected_cells),
        code=jobs.code("per-class"),
    message:
        "Certified accuracy per class of {wildcards.table}"
    shell:
        "ddrs per-class {input.logs} {params.cells} --csv {output.csv} --md {output.md} > {log} 2>&1"


rule p_lower:
    input:
        logs=jobs.logs_of_table,
        validation=jobs.validation_of_table,
        before=jobs.before_of_table,
    output:
        pdf="results/p_lower_{table}.pdf",
        png="results/p_lower_{table}.png",
        caption="results/captions/p_lower_{table}.md",
    log:
        "logs/tables/p_lower_{table}.log",
    benchmark:
        "logs/benchmarks/tables/p_lower_{table}.tsv"
    localrule: True
    params:
        recipe=jobs.recipe_of_table,
        number=jobs.number,
        validation=flagged("--validation", "validation"),
        even=jobs.even,
        before=flagged("--before", "before"),
        order=order(jobs.logs_of_table, jobs.validation_of_table, jobs.before_of_table),
        code=jobs.code("distribution"),
    message:
        "Draw the distribution of p_lower of {wildcards.table}"
    shell:
        "ddrs distribution {input.logs} {params.validation} {params.even} {params.before} --pdf {output.pdf} --png {output.png}"
        " --caption {output.caption} --title 'p_lower of Table {params.number}' {params.recipe} > {log} 2>&1"


rule page:
    input:
        text="results/{page}.md",
    output:
        html=report("results/pages/{page}.html", caption="../report/table.rst", category="Tables", labels={"table": "{page}"}),
    log:
        "logs/pages/{page}.log",
    benchmark:
        "logs/benchmarks/pages/{page}.tsv"
    wildcard_constraints:
        page=graph.tabled,
    localrule: True
    params:
        picture=flagged("--picture", "picture", lead=" "),
        code=jobs.code("page"),
    message:
        "Make {wildcards.page} a page of the report"
    shell:
        "ddrs page {input.text}{params.picture} --html {output.html} > {log} 2>&1"


use rule page as picture with:
    input:
        text="results/captions/{page}.md",
        picture="results/{page}.png",
    output:
        html=report("results/pages/{page}.html", caption="../report/picture.rst", category="Figures", labels={"figure": "{page}"}),
    wildcard_constraints:
        page=graph.pictured,
    localrule: True
    params:
        code=jobs.code("page"),

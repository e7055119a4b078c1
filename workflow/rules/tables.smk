localrules:
    tables,
    table,
    comparison,
    claims,
    per_class,
    p_lower,
    page,
    picture,


rule tables:
    input:
        table_files(),


# The radii are a list per table and dataset, and so is the output of one job: hence a rule for each.
for table, name in product([f"{table}{form}" for table in TABLES for form in ("", SELECTED)], certified_datasets):

    rule:
        name:
            f"cells_{table}_{name}"
        input:
            logs=logs_of_row(name),
            validation=validation_of_row(table, name),
            before=before_of_row(table, name),
        output:
            cells=expand("results/cells/{table}/{dataset}/{{label}}/{column}.json", table=table, dataset=name, column=[*radii(table, name), "acr"]),
        log:
            f"logs/cells/{table}/{name}/{{label}}.log",
        benchmark:
            f"logs/benchmarks/cells/{table}/{name}/{{label}}.tsv"
        wildcard_constraints:
            label="|".join(labels(table)),
        localrule: True
        params:
            table=table,
            radii=",".join(radii(table, name)),
            folder=subpath(output[0], parent=True),
            choice=choice_flags(table, name),
            validation=flagged("--validation", "validation"),
            before=flagged("--before", "before"),
            made=made_of_row(table, name),
            seed=settings.seed,
            code=code("cell"),
        message:
            "Cells of {params.table}, row {wildcards.label}"
        shell:
            "ddrs cell {input.logs} --table {params.table} --label {wildcards.label} --radii {params.radii}"
            " --out-dir {params.folder} {params.choice} {params.validation} {params.before}"
            " --made {params.made} --seed {params.seed} > {log} 2>&1"


# A verb writes all files of its result or none, but Snakemake removes the former ones before a job starts. Its flag `update` would keep them, and
# must not stand here: it puts them back after a failed job with a new time, so that the next run takes them for what the changed inputs give.
rule table:
    input:
        cells=cells_of_table,
    output:
        csv="results/{table}{selected}.csv",
        md="results/{table}{selected}.md",
        tex="results/{table}{selected}.tex",
    log:
        "logs/tables/{table}{selected}.log",
    benchmark:
        "logs/benchmarks/tables/{table}{selected}.tsv"
    params:
        order=order(cells_of_table),
        code=code("table"),
    message:
        "Assemble {wildcards.table}{wildcards.selected}"
    shell:
        "ddrs table {input.cells} --csv {output.csv} --md {output.md} --tex {output.tex} > {log} 2>&1"


rule comparison:
    input:
        cells=both_cells,
    output:
        csv="results/{table}_comparison.csv",
        md="results/{table}_comparison.md",
    log:
        "logs/tables/{table}_comparison.log",
    benchmark:
        "logs/benchmarks/tables/{table}_comparison.tsv"
    params:
        order=order(both_cells),
        code=code("compare"),
    message:
        "Set {wildcards.table} beside the print"
    shell:
        "ddrs compare {input.cells} --csv {output.csv} --md {output.md} > {log} 2>&1"


rule claims:
    input:
        cells=all_cells(),
    output:
        csv="results/claims.csv",
        md="results/claims.md",
    log:
        "logs/tables/claims.log",
    benchmark:
        "logs/benchmarks/tables/claims.tsv"
    params:
        order=order(all_cells()),
        code=code("claims"),
    message:
        "Check the paper's headline sentences"
    shell:
        "ddrs claims {input.cells} --csv {output.csv} --md {output.md} > {log} 2>&1"


rule per_class:
    input:
        logs=logs_of_table,
        cells=selected_cells,
    output:
        csv="results/per_class_{table}.csv",
        md="results/per_class_{table}.md",
    log:
        "logs/tables/per_class_{table}.log",
    benchmark:
        "logs/benchmarks/tables/per_class_{table}.tsv"
    params:
        cells=flagged("--cell", "cells"),
        order=order(logs_of_table, selected_cells),
        code=code("per-class"),
    message:
        "Certified accuracy per class of {wildcards.table}"
    shell:
        "ddrs per-class {input.logs} {params.cells} --csv {output.csv} --md {output.md} > {log} 2>&1"


rule p_lower:
    input:
        logs=logs_of_table,
        validation=validation_of_table,
        before=before_of_table,
    output:
        pdf="results/p_lower_{table}.pdf",
        png="results/p_lower_{table}.png",
        caption="results/captions/p_lower_{table}.md",
    log:
        "logs/tables/p_lower_{table}.log",
    benchmark:
        "logs/benchmarks/tables/p_lower_{table}.tsv"
    params:
        made=made_of_table,
        number=lambda wildcards: wildcards.table.removeprefix("table"),
        validation=flagged("--validation", "validation"),
        even=even_flags,
        before=flagged("--before", "before"),
        order=order(logs_of_table, validation_of_table, before_of_table),
        code=code("distribution"),
    message:
        "Draw the distribution of p_lower of {wildcards.table}"
    shell:
        "ddrs distribution {input.logs} {params.validation} {params.even} {params.before} --pdf {output.pdf} --png {output.png}"
        " --caption {output.caption} --title 'p_lower of Table {params.number}' {params.made} > {log} 2>&1"


rule page:
    input:
        md="results/{page}.md",
    output:
        html=report("results/pages/{page}.html", caption="../report/table.rst", category="Tables", labels={"table": "{page}"}),
    log:
        "logs/pages/{page}.log",
    benchmark:
        "logs/benchmarks/pages/{page}.tsv"
    wildcard_constraints:
        page=r"(table|per_class_|claims)\w*",
    params:
        code=code("page"),
    message:
        "Make {wildcards.page} a page of the report"
    shell:
        "ddrs page {input.md} --html {output.html} > {log} 2>&1"


rule picture:
    input:
        png="results/{page}.png",
        caption="results/captions/{page}.md",
    output:
        html=report("results/pages/{page}.html", caption="../report/picture.rst", category="Figures", labels={"figure": "{page}"}),
    log:
        "logs/pages/{page}.log",
    benchmark:
        "logs/benchmarks/pages/{page}.tsv"
    wildcard_constraints:
        page=r"(figure|p_lower_)\w+",
    params:
        code=code("page"),
    message:
        "Make {wildcards.page} a page of the report"
    shell:
        "ddrs page {input.caption} --picture {input.png} --html {output.html} > {log} 2>&1"

# The radii are a list per table and dataset, and so is the output of one job: hence a rule for each.
for table, name in product(ddrs_config.TABLES, certified_datasets):

    rule:
        name:
            f"cells_{table}_{name}"
        input:
            logs=logs_of_row(name),
        output:
            cells=expand("results/cells/{table}/{dataset}/{{label}}/{column}.json", table=table, dataset=name, column=[*radii(table, name), "acr"]),
        log:
            f"logs/cells/{table}/{name}/{{label}}.log",
        benchmark:
            f"logs/benchmarks/cells/{table}/{name}/{{label}}.tsv"
        wildcard_constraints:
            label="|".join(labels(table)),
        params:
            table=table,
            radii=",".join(radii(table, name)),
            folder=subpath(output[0], parent=True),
            seed=settings.seed,
            code=code("cells"),
        message:
            "Cells of {params.table}, row {wildcards.label}"
        shell:
            "ddrs cell {input.logs} --table {params.table} --label {wildcards.label} --radii {params.radii}"
            " --out-dir {params.folder} --seed {params.seed} > {log} 2>&1"


rule table:
    input:
        cells=cells_of_table,
    output:
        csv=report("results/{table}.csv", caption="../report/table.rst", category="Tables", labels={"table": "{table}"}),
        md="results/{table}.md",
        tex="results/{table}.tex",
    log:
        "logs/tables/{table}.log",
    benchmark:
        "logs/benchmarks/tables/{table}.tsv"
    params:
        caption=table_caption,
        code=code("table"),
    message:
        "Assemble {wildcards.table}"
    shell:
        "ddrs table {input.cells} --csv {output.csv} --md {output.md} --tex {output.tex} > {log} 2>&1"

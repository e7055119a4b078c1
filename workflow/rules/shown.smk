# What the tables and figures show, and the files behind it.


def radii(table, dataset):
    method = labels(table)[0]
    return [f"{radius:.2f}" for radius in settings.on(dataset, method).radii]


def row_place(dataset, label):
    """The method of a table's row, its row among certificates (fs, ds or ds2) and its sigmas."""
    method, _, row = label.partition("-")
    return dict(dataset=dataset, method=method, row=row or "fs", sigma=settings.sigma_texts(dataset, method))


def row_models(dataset, label):
    """The models behind one row of a table, one per sigma."""
    place = row_place(dataset, label)
    return expand("results/models/{dataset}/{method}/{regime}/sigma_{sigma}.safetensors", regime=REGIME[place["row"]], **place)


def row_logs(dataset, label, split="test"):
    """The logs behind one row of a table: every sigma, and every K for DS; rows of a fixed sigma never pass the memory."""
    place = dict(split=split, **row_place(dataset, label))
    if place["row"] == "fs":
        return expand(f"{CERTIFICATES}/fs/sigma_{{sigma}}.tsv", **place)
    return expand(f"{MEMORY}/{{row}}/sigma_{{sigma}}.K_{{K}}.tsv", K=settings.certify[dataset].k, **place)


def validation_logs(dataset, label):
    """The validation logs of a row, which choose its sigma and K; none where every second test image does."""
    return row_logs(dataset, label, "validation") if chooses_on(dataset) == "validation" else []


def logs_before_memory(dataset, label):
    """The logs of a row from before the memory, on which every second test image chooses; none of a row without memory, or where others choose."""
    place = row_place(dataset, label)
    if place["row"] == "fs" or chooses_on(dataset) != ALTERNATE:
        return []
    return expand(f"{CERTIFICATES}/{{row}}/sigma_{{sigma}}.K_{{K}}.tsv", K=settings.certify[dataset].k, split="test", **place)


def chooses_on(dataset):
    return settings.datasets[dataset].chooses_on


def rows(table):
    """The rows that a table shows: dataset and label."""
    return [(dataset, label) for dataset in settings.tables.get(table_of_print(table), []) for label in labels(table)]


def of_rows(files, tables):
    """The files of every row of some tables, each once."""
    return list(dict.fromkeys(file for table in tables for row in rows(table) for file in files(*row)))


def table_cells(table):
    """Every cell of a table, row by row."""
    return [f"results/cells/{table}/{dataset}/{label}/{column}.json" for dataset, label in rows(table) for column in [*radii(table, dataset), "acr"]]


def cells_of_table(wildcards):
    return table_cells(wildcards.table + wildcards.selected)


def both_cells(wildcards):
    return table_cells(wildcards.table) + selected_cells(wildcards)


def selected_cells(wildcards):
    return table_cells(wildcards.table + SELECTED)


def all_cells():
    return [cell for table in shown_tables() for form in (table, table + SELECTED) for cell in table_cells(form)]


def logs_of_table(wildcards):
    return of_rows(row_logs, [wildcards.table])


def validation_of_table(wildcards):
    return of_rows(validation_logs, [wildcards.table])


def before_of_table(wildcards):
    return of_rows(logs_before_memory, [wildcards.table])


def flagged(flag, name):
    """A function for params: the flag before each file of a named input."""

    def flags(wildcards, input):
        return " ".join(f"{flag} {path}" for path in input[name])

    return flags


def order(*inputs):
    """A function for params: a digest of a rule's inputs as they are ordered, since Snakemake's records hold them sorted.

    inputs: input functions, or lists of files.
    """

    def ordered(wildcards):
        return digest([[str(path) for path in (one(wildcards) if callable(one) else one)] for one in inputs])

    return ordered


def panels(number):
    return getattr(settings.figures, f"figure{number}")


def runs_of_figure(number):
    """What Figures 6 to 9 need certified: dataset, method and run of each log, in the figure's order."""
    runs = []
    for panel in panels(number):
        if number == "8":
            ks = {"ds": [panel.k], "gds": panel.grids(settings.search_on(panel.dataset, panel.method))}
            sigmas = settings.sigma_texts(panel.dataset, panel.method)
            found = [f"fs/sigma_{sigma}" for sigma in sigmas]
            found += [f"{row}/sigma_{sigma}.K_{k}" for row in ks for k in ks[row] for sigma in sigmas]
        elif number == "7":
            found = [f"{panel.row}/sigma_{panel.sigma:.2f}.K_{k}" for k in panel.k]
            if panel.row == "ds" and panel.k[0] == 0:
                found[0] = f"fs/sigma_{panel.sigma:.2f}"  # the same model at the same sigma
        else:
            found = [f"fs/sigma_{panel.sigma:.2f}", f"ds/sigma_{panel.sigma:.2f}.K_{panel.k}"]
        runs += [(panel.dataset, panel.method, run) for run in found]
    return runs


def run_log(dataset, method, run):
    """The log of a run that tables and figures read: as certified with a fixed sigma, else after the memory pass."""
    place = CERTIFICATES if run.startswith("fs/") else MEMORY
    return f"{place}/{run}.tsv".format(dataset=dataset, method=method, split="test")


def run_model(dataset, method, run):
    row, sigma, k = parts_of_run(run)
    return f"results/models/{dataset}/{method}/{REGIME[row]}/sigma_{sigma}.safetensors"


def of_figures(files):
    """The files of every run that Figures 6 to 9 show, each once."""
    return list(dict.fromkeys(files(*run) for number in "6789" for run in runs_of_figure(number)))


def figure_logs(number):
    return of_rows(row_logs, [FIGURES[number]]) if number in FIGURES else [run_log(*run) for run in runs_of_figure(number)]


def logs_of_figure(wildcards):
    return list(dict.fromkeys(figure_logs(wildcards.number)))


def figure_flags(wildcards):
    """How a figure's curves are grouped; of Figure 8 also the budget, from which the samples of a grid follow."""
    if wildcards.number == "8":
        panel = panels("8")[0]
        return f"--kind searches --evaluations {panel.budget(settings.search_on(panel.dataset, panel.method))}"
    return "--kind steps" if wildcards.number == "7" else "--kind rows"


def example_logs(row):
    """An input function: the logs of Figure 6 or 9 that are of a row, in the order of its panels."""

    def logs(wildcards):
        return [run_log(*run) for run in runs_of_figure(wildcards.number) if run[2].startswith(f"{row}/")]

    return logs


def example_data(wildcards):
    return [ancient(f"data/{panel.dataset}/manifest.json") for panel in panels(wildcards.number)]


def example_flags(wildcards):
    """Settings alone; the files are said by `flagged`, as what takes `input` is not in Snakemake's records."""
    quantiles = " ".join(f"--quantiles {','.join(map(str, panel.quantiles))}" for panel in panels(wildcards.number))
    return f"{quantiles} --seed {settings.seed}"


def logs_of_row(dataset):
    """An input function: the logs of the row that a cell is in."""

    def logs(wildcards):
        return row_logs(dataset, wildcards.label)

    return logs


def choice_flags(table, dataset):
    """What chooses sigma and K of a table's cells, and the dataset of the print that they stand beside."""
    choice = f"--choose-on {chooses_on(dataset)} " if table.endswith(SELECTED) else ""
    return f"{choice}--kind {settings.datasets[dataset].kind}"


def even_flags(wildcards):
    """The datasets of a table of which every second test image chooses."""
    return " ".join(f"--even {dataset}" for dataset in settings.tables[wildcards.table] if chooses_on(dataset) == ALTERNATE)


def validation_of_row(table, dataset):
    """An input function: the logs that choose sigma and K, for the cells of a selected table."""

    def logs(wildcards):
        return validation_logs(dataset, wildcards.label) if table.endswith(SELECTED) else []

    return logs


def before_of_row(table, dataset):
    """An input function: the logs before the memory on which sigma and K are chosen, for the cells of a selected table."""

    def logs(wildcards):
        return logs_before_memory(dataset, wildcards.label) if table.endswith(SELECTED) else []

    return logs


def made_flags(pairs):
    """How the models and sigmas of some datasets and methods are made, each once, for captions."""
    said = dict.fromkeys(f"{method} on {dataset}: {made(settings, dataset, method)}." for dataset, method in pairs)
    return " ".join(f"--made {shlex.quote(text)}" for text in said)


def made_of_row(table, dataset):
    """A function for params: how the row's models and sigmas are made."""

    def text(wildcards):
        return shlex.quote(made(settings, dataset, labels(table)[0]))

    return text


def made_of_table(wildcards):
    return made_flags((dataset, labels(wildcards.table)[0]) for dataset in settings.tables[wildcards.table])


def made_of_figure(wildcards):
    if wildcards.number in FIGURES:
        table = FIGURES[wildcards.number]
        return made_flags((dataset, labels(table)[0]) for dataset in settings.tables[table])
    return made_flags((panel.dataset, panel.method) for panel in panels(wildcards.number))


def figure_files():
    names = [f"figure{number}" for number in shown_figures(settings)]
    return expand(["results/{name}.pdf", "results/{name}.png", "results/pages/{name}.html"], name=names)


def subject(wildcards):
    return SUBJECTS[wildcards.number]


def shown_tables():
    return [table for table, datasets in settings.tables.items() if datasets]


def table_files():
    """All tables in both forms, their comparison with the print, the claims, what goes beyond ACR, and the pages of the report."""
    tables = [
        *expand("results/{table}{selected}.{form}", table=shown_tables(), selected=["", SELECTED], form=["csv", "md", "tex"]),
        *expand("results/per_class_{table}.{form}", table=shown_tables(), form=["csv", "md"]),
        *expand("results/{table}_comparison.{form}", table=shown_tables(), form=["csv", "md"]),
        *expand(["results/p_lower_{table}.pdf", "results/p_lower_{table}.png", "results/pages/p_lower_{table}.html"], table=shown_tables()),
        *(["results/claims.csv", "results/claims.md"] if shown_tables() else []),
    ]
    return tables + [f"results/pages/{Path(table).stem}.html" for table in tables if table.endswith(".md")]

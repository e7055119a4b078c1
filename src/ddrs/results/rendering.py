"""Tables as text: csv, Markdown and LaTeX."""

from collections.abc import Sequence

import pandas as pd


def render(table: pd.DataFrame, form: str, formats: Sequence[str]) -> str:
    """A table as csv, md or tex text; `formats` are for its last columns, and a missing number is left empty."""
    text = table.astype(object).copy()
    for name, form_of in zip(table.columns[-len(formats) :], formats, strict=True):
        text[name] = ["" if pd.isna(value) else form_of % value for value in table[name]]
    if form == "csv":
        return text.to_csv(index=False).rstrip("\n")
    if form == "md":
        lines = [list(text.columns), ["---"] * len(text.columns), *text.to_numpy().tolist()]
        return "\n".join("| " + " | ".join(str(value) for value in line) + " |" for line in lines)
    style = text.style
    style.hide(axis="index")
    style.format(escape="latex")
    style.format_index(escape="latex", axis=1)
    alignment = "l" * (len(text.columns) - len(formats)) + "r" * len(formats)
    return str(style.to_latex(hrules=True, column_format=alignment)).rstrip("\n")

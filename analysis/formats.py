"""Tables as files: CSV, and for papers Markdown and LaTeX; names are escaped in each."""

from __future__ import annotations

import csv
import html
import io
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from randlabels.rundir import write_atomic

LONGEST = 200
"""Rows up to which a table is also written for reading, as Markdown and LaTeX."""

FORMULA = r"^([=+\-@\t\r])"
"""How a text begins that a spreadsheet takes for a formula."""


def as_csv(table: pa.Table, *, header: bool = True) -> bytes:
    """CSV with numbers in full; a missing value is an empty cell.

    A text that a spreadsheet would take for a formula (`=cmd`) has an apostrophe before it.
    """
    texts = [i for i, kind in enumerate(table.schema.types) if _is_text(kind)]
    quotes = "none"
    for i in texts:
        values = table.column(i).unique()
        if pc.any(pc.match_substring_regex(values, FORMULA)).as_py():
            column = pc.replace_substring_regex(table.column(i), FORMULA, r"'\1")
            table = table.set_column(i, table.field(i), column)
        if pc.any(pc.match_substring_regex(values, r'[",\r\n]')).as_py():
            quotes = "needed"
    names = io.StringIO()
    if header:
        heads = [re.sub(FORMULA, r"'\1", name) for name in table.column_names]
        csv.writer(names, lineterminator="\n").writerow(heads)
    buffer = io.BytesIO()
    buffer.write(names.getvalue().encode())
    table = table.combine_chunks()  # an empty first chunk would be written as stale memory
    pa.csv.write_csv(table, buffer, pa.csv.WriteOptions(include_header=False, quoting_style=quotes))
    return buffer.getvalue()


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """`table` as CSV, replaced as a whole."""
    write_atomic(path, as_csv(pa.Table.from_pandas(table, preserve_index=False)))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def write_for_papers(table: pd.DataFrame, path: Path) -> None:
    """`<path>.md` and `<path>.tex` of a table of texts; booktabs rules, numbers to the right."""
    table = table.map(lambda cell: " ".join(cell.split()))  # one line each
    write_atomic(path.with_suffix(".md"), markdown(table))
    write_atomic(path.with_suffix(".tex"), latex(table))


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table; what has a meaning there is escaped."""

    def row(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def escaped(text: object) -> str:
        return re.sub(r"([\\`*_{}\[\]|~])", r"\\\1", html.escape(str(text), quote=False))

    head = [escaped(name) for name in table]
    rule = ["---:" if numeric(table[name]) else "---" for name in table]
    body = [[escaped(cell) for cell in cells] for cells in table.itertuples(index=False)]
    return "\n".join(map(row, [head, rule, *body])) + "\n"


def latex(table: pd.DataFrame) -> str:
    """A booktabs `tabular`, through pandas' Styler; \\usepackage{booktabs} is all it needs."""
    alignment = "".join("r" if numeric(table[name]) else "l" for name in table)
    style = (
        table.style.hide(axis="index").format(escape="latex").format_index(axis=1, escape="latex")
    )
    text = style.to_latex(hrules=True, column_format=alignment)
    return text.replace("±", r"$\pm$").replace("×", r"$\times$")


def numeric(cells: pd.Series) -> bool:
    """All cells look like numbers, or are missing."""
    return bool(cells.astype("str").str.fullmatch(r"-?[\d.,]+%?( ± [\d.]+)?|-|").all())


def percent(fraction: float | None) -> str:
    """A fraction in %, with two decimals; `-` where it is missing."""
    return "-" if pd.isna(fraction) else f"{100 * fraction:.2f}"

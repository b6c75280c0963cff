"""Write tables as CSV, Markdown and LaTeX; names are escaped in each."""

import csv
import html
import io
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from randlabels.store.files import write_atomic

MAX_READABLE_ROWS = 200  # of a table that is also written as Markdown and LaTeX
FORMULA = r"^([=+\-@\t\r])"  # how a text begins that a spreadsheet takes for a formula


def write_csv(table: pa.Table | pd.DataFrame, path: Path) -> None:
    """Write a table as CSV with all digits of numbers; a missing value is an empty cell.

    An apostrophe is put before a text that a spreadsheet would take for a formula (`=cmd`). The
    file is replaced as a whole.
    """
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    quotes = "none"
    for i, kind in enumerate(table.schema.types):
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            continue
        values = table.column(i).unique()
        if pc.any(pc.match_substring_regex(values, FORMULA)).as_py():
            column = pc.replace_substring_regex(table.column(i), FORMULA, r"'\1")
            table = table.set_column(i, table.field(i), column)
        if pc.any(pc.match_substring_regex(values, r'[",\r\n]')).as_py():
            quotes = "needed"
    heads = io.StringIO()
    names = [re.sub(FORMULA, r"'\1", name) for name in table.column_names]
    csv.writer(heads, lineterminator="\n").writerow(names)
    content = io.BytesIO(heads.getvalue().encode())
    content.seek(0, io.SEEK_END)
    table = table.combine_chunks()  # an empty first chunk would be written as stale memory
    options = pa.csv.WriteOptions(include_header=False, quoting_style=quotes)
    pa.csv.write_csv(table, content, options)
    write_atomic(path, content.getbuffer())


def write_for_papers(table: pd.DataFrame, path: Path) -> None:
    """Write `<path>.md` and `<path>.tex` of a table of texts; numbers are aligned right.

    The LaTeX needs the package booktabs.
    """
    table = table.map(lambda cell: " ".join(cell.split()))  # one line each
    numbers = [numeric(table[name]) for name in table]
    formats = "".join("r" if number else "l" for number in numbers)
    latex = table.to_latex(index=False, escape=True, column_format=formats)
    write_atomic(path.with_suffix(".tex"), latex.replace("±", r"$\pm$").replace("×", r"$\times$"))
    rows = [list(table), *table.values.tolist()]
    lines = [f"| {' | '.join(map(_escape, row))} |\n" for row in rows]
    lines.insert(1, f"| {' | '.join('---:' if number else '---' for number in numbers)} |\n")
    write_atomic(path.with_suffix(".md"), "".join(lines))


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]|~])", r"\\\1", html.escape(text, quote=False))


def list_values(column: pd.Series) -> str:
    """Return the distinct values of a column (N,), sorted, such as `bf16, fp32`."""
    return ", ".join(sorted(column.dropna().astype(str).unique()))


def numeric(cells: pd.Series) -> bool:
    """Return whether all cells look like numbers or are missing."""
    return bool(cells.astype("str").str.fullmatch(r"-?[\d.,]+%?( ± [\d.]+)?|-|").all())

"""`python -m analysis.report DIR [--out OUT]`: draw the figures and write report.html."""

from __future__ import annotations

import base64
import io
import os
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd

from randlabels import __version__
from randlabels.console import until_nobody_reads
from randlabels.store.rundir import write_atomic

from .collect import collect, parser, thresholds, warnings
from .formats import MAX_READABLE_ROWS, numeric
from .runs import LEADING_KEYS, Collection
from .tables import for_papers, shorten_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARED = ["n", "n_done", "share changed (%)", "eval_every", "fit_threshold", "seed"]
"""Columns of the tables that are not results, in addition to the swept keys."""

CAPTIONS = {
    "test_error": "Final test error, against the true labels",
    "time_to_fit": "Epochs until the training set is fitted",
    "corruption_vs_epochs": "Train accuracy in % after an epoch (0-based)",
}
"""The tables of means in the report, with their captions."""

WIDE_INCHES = 5.0
"""Figures above this width are also drawn for the screen of a phone."""


def main(arguments: list[str] | None = None) -> None:
    """Collect, draw, and write `figures/*.png`, `figures/*.pdf` and `report.html`."""
    from . import example_figures, figures, panels

    given = sys.argv[1:] if arguments is None else arguments
    options = parser("report", __doc__).parse_args(given)
    out = options.out or options.dir / "summary"
    found, tables = collect(options.dir, out, options.fit_threshold)
    drawn, narrow = figures.build(found), figures.build(found, columns=1)
    if "detection" in tables:
        drawn |= example_figures.build(found, tables["detection"])
        narrow |= example_figures.build(found, tables["detection"], columns=1)
    (out / "figures").mkdir(exist_ok=True)
    images = []
    for name, (figure, caption) in drawn.items():
        png = _encode(figure, "png")
        write_atomic(out / "figures" / f"{name}.png", png)
        write_atomic(out / "figures" / f"{name}.pdf", _encode(figure, "pdf"))
        wide = figure.get_figwidth() > WIDE_INCHES
        small = _encode(narrow[name][0], "png") if wide else b""
        images.append({"caption": caption, "width": round(96 * figure.get_figwidth())})
        images[-1] |= {"png": _as_text(png), "narrow": _as_text(small), "wide": wide}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    _, _, listed = panels.series(found)
    html = environment.get_template("report.html.j2").render(
        describe(found, tables),
        title=f"Corruption sweep {options.dir.resolve().name}",
        figures=images,
        repetitions=figures.repetitions(found),
        shown=panels.MAX_DRAWN_SERIES,
        hidden=max(0, len(listed) - panels.MAX_DRAWN_SERIES),
        command=f"python -m {__package__}.report {shlex.join(given)}",
    )
    write_atomic(out / "report.html", html)
    print(out / "report.html")
    for name, (_, caption) in drawn.items():
        print(f"{out / 'figures' / name}.png  {caption}")
    print(figures.repetitions(found))


def describe(found: Collection, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Return what the report says in words and tables."""
    runs = found.runs
    return {
        "version": __version__,
        "data": ", ".join(sorted(runs["dataset"].dropna().unique())),
        "states": dict(sorted(Counter(runs["state"]).items())),
        "total": len(runs),
        "missing": int((runs["state"] != "done").sum()),
        "warnings": warnings(found),
        "tables": [_table(CAPTIONS[name], tables[name], found.swept, name) for name in CAPTIONS],
        "runs": _table("", shorten_runs(tables["runs"], []), found.swept, "runs"),
        "one_draw": "corruption.seed" not in found.swept,
        "config": "\n".join(_list_keys(found)),
        "sweeps": runs["command"].dropna().unique().tolist(),
        "thresholds": thresholds(runs),
        "origin": {
            name: ", ".join(sorted(runs[column].dropna().astype(str).unique())) or "unknown"
            for name, column in (
                ("commit", "git"),
                ("torch", "used_torch"),
                ("device", "used_device"),
            )
        },
    }


def _table(caption: str, table: pd.DataFrame, swept: list[str], name: str) -> dict[str, Any]:
    """Return a table as texts: what all rows share apart, and results right after the level."""
    texts = for_papers(table)
    same = [c for c in texts if c in (*swept, *SHARED) and texts[c].nunique() == 1 < len(texts)]
    places = dict.fromkeys([*swept, *SHARED], 2) | dict.fromkeys(LEADING_KEYS, 0)
    columns = sorted(texts.columns.drop(same), key=lambda column: places.get(column, 1))
    return {
        "caption": caption,
        "same": ", ".join(f"{column} {texts[column].iloc[0]}" for column in same),
        "columns": [(column, numeric(texts[column])) for column in columns],
        "rows": texts[columns].head(MAX_READABLE_ROWS).values.tolist(),
        "more": max(0, len(table) - MAX_READABLE_ROWS),
        "file": f"{name}.csv",
    }


def _list_keys(found: Collection) -> list[str]:
    """Return lines of config keys, as the command line takes them.

    Keys with one value in all runs come first, then the options that differ, with their own keys.
    """
    runs = found.runs
    keys = list(dict.fromkeys([*LEADING_KEYS, *sorted(found.keys)]))
    shared = [key for key in keys if runs[key].astype("str").nunique(dropna=False) == 1]
    lines = [f"{key}={_override(runs[key].iloc[0])}" for key in shared]
    for group in (key for key in found.swept if key not in shared):
        own = [k for k in keys if k.startswith(f"{group}.") and k not in (*shared, *found.swept)]
        if not own:
            continue
        for option, of_option in runs.groupby(group):
            values = {key: _override(of_option[key].iloc[0]) for key in own}
            texts = [f"{key}={value}" for key, value in values.items() if value != "null"]
            lines.append(" ".join([f"{group}={option}", *texts]))
    return lines


def _override(value: Any) -> str:
    """Return a value as the command line takes it."""
    text = "null" if pd.isna(value) else str(value).replace(" ", "")
    return text.lower() if text in ("True", "False") else text


def _encode(figure: Figure, kind: str) -> bytes:
    """Return the figure's file, without a date, so that the same runs give the same bytes."""
    buffer = io.BytesIO()
    dated = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
    figure.savefig(buffer, format=kind, metadata=dated[kind])
    return buffer.getvalue()


def _as_text(image: bytes) -> str:
    return base64.b64encode(image).decode()


if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"  # a notebook's, inherited, may not be installed here
    with until_nobody_reads():
        main()

"""`python -m analysis.report DIR [--out OUT] [--x KEY]`: draw the figures and write report.html.

With `--x KEY`, the figures have another key than `corrupt` on their x axis, such as model.hidden,
parameters, batch_size or dataset.train_size; the files are named after it.
"""

import io
import os
import shlex
import sys
from base64 import b64encode
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import StrictUndefined, Template

from randlabels import __version__
from randlabels.console import ignore_closed_pipe
from randlabels.store.files import write_atomic

from .collect import collect, parser, thresholds, warnings
from .formats import MAX_READABLE_ROWS, list_values, numeric
from .runs import LEADING_KEYS, SEEDS, Collection
from .tables import for_papers, override, shorten_runs

WIDE_INCHES = 5.0  # figures above this width are also drawn for the screen of a phone

# Columns of the tables that are not results, in addition to the swept keys.
SHARED = ["n", "n_done", "share changed (%)", "eval_every", "fit_threshold", "seed"]

# The tables of means in the report.
CAPTIONS = {
    "test_error": "Final test error, against the true labels",
    "time_to_fit": "Epochs until the training set is fitted",
    "corruption_vs_epochs": "Train accuracy in % after an epoch (0-based)",
}


def main(arguments: list[str] | None = None) -> None:
    """Collect, draw, and write `figures/*.png`, `figures/*.pdf` and `report.html`."""
    from . import example_figures, figures, panels

    given = sys.argv[1:] if arguments is None else arguments
    accepted = parser("report", __doc__)
    accepted.add_argument("--x", default="corrupt", metavar="KEY", help="x axis of the figures")
    options = accepted.parse_args(given)
    out, x = options.out or options.dir / "summary", options.x
    found, tables = collect(options.dir, out, options.fit_threshold)
    keys = [key for key in found.swept if key not in SEEDS]
    differing = [key for key in keys if found.runs[key].nunique(dropna=False) > 1]
    differing += ["parameters"] * (found.runs["parameters"].nunique() > 1)
    if x not in ["corrupt", *differing]:
        use = ", ".join(differing) or "corrupt"
        sys.exit(f"Error: --x={x} must be a key that differs among the runs; use {use}")
    by = "" if x == "corrupt" else f"_by_{x}"
    drawn, narrow = figures.build(found, x=x), figures.build(found, columns=1, x=x)
    if "detection" in tables and x == "corrupt":
        drawn |= example_figures.build(found, tables["detection"])
        narrow |= example_figures.build(found, tables["detection"], columns=1)
    (out / "figures").mkdir(exist_ok=True)
    images = []
    for name, (figure, caption) in drawn.items():
        png, file = _encode(figure, "png"), out / "figures" / f"{name}{by}"
        write_atomic(Path(f"{file}.png"), png)
        write_atomic(Path(f"{file}.pdf"), _encode(figure, "pdf"))
        inches = figure.get_figwidth()
        small = _encode(narrow[name][0], "png") if inches > WIDE_INCHES else b""
        as_text = {"png": b64encode(png).decode(), "narrow": b64encode(small).decode()}
        images.append({"caption": caption, "width": round(96 * inches), **as_text})
    text = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    page = Template(text, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    html = page.render(
        describe(found, tables),
        title=f"Corruption sweep {options.dir.resolve().name}",
        figures=images,
        repetitions=figures.repetitions(found),
        shown=panels.MAX_DRAWN_SERIES,
        hidden=max(0, len(panels.series(found, x)[1]) - panels.MAX_DRAWN_SERIES),
        command=f"python -m {__package__}.report {shlex.join(given)}",
    )
    write_atomic(out / f"report{by}.html", html)
    print(out / f"report{by}.html")
    for name, (_, caption) in drawn.items():
        print(f"{out / 'figures' / name}{by}.png  {caption}")
    print(figures.repetitions(found))


def describe(found: Collection, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Return what the report says in words and tables."""
    runs = found.runs
    origin = {"commit": "git", "torch": "used_torch", "device": "used_device"}
    return {
        "version": __version__,
        "result": conclude(tables),
        "data": list_values(runs["dataset"]),
        "states": dict(sorted(Counter(runs["state"]).items())),
        "total": len(runs),
        "missing": int((runs["state"] != "done").sum()),
        "warnings": warnings(found),
        "tables": [_table(CAPTIONS[name], tables[name], found.swept, name) for name in CAPTIONS],
        "runs": _table("", shorten_runs(tables["runs"], found.swept), found.swept, "runs"),
        "one_draw": "corruption.seed" not in found.swept,
        "config": "\n".join(_list_keys(found)),
        "sweeps": runs["command"].dropna().unique().tolist(),
        "thresholds": thresholds(runs),
        "origin": {name: list_values(runs[column]) or "unknown" for name, column in origin.items()},
    }


def conclude(tables: dict[str, pd.DataFrame]) -> str:
    """Return two sentences on what came out: which runs fitted their labels, and test errors."""
    table = tables["time_to_fit"].join(100 * tables["test_error"]["test_error_mean"])
    table = table[table["n_done"] > 0]
    if table.empty:
        return "No run is done yet."
    levels = {level: table[table["corrupt"] == level] for level in sorted(set(table["corrupt"]))}
    level, highest = list(levels.items())[-1]
    errors = []
    for of_level in dict.fromkeys([min(levels), level]):
        means = levels[of_level]["test_error_mean"]
        span = dict.fromkeys(f"{mean:.1f}" for mean in (means.min(), means.max()))
        errors.append(f"{' to '.join(span)} % at corrupt = {of_level:g}")
    return (
        f"{table['n_fitted'].sum()} of the {table['n_done'].sum()} runs that are done fitted the "
        f"labels that they were trained on; at corrupt = {level:g}, {highest['n_fitted'].sum()} of "
        f"{highest['n_done'].sum()} did. The test error is {' and '.join(errors)}."
    )


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
    """Return lines of config keys: those of all runs, then of each option that differs."""
    runs = found.runs
    keys = list(dict.fromkeys([*LEADING_KEYS, *sorted(found.keys)]))
    shared = [key for key in keys if runs[key].astype("str").nunique(dropna=False) == 1]
    lines = [f"{key}={override(runs[key].iloc[0])}" for key in shared]
    for group in (key for key in found.swept if key not in shared):
        own = [k for k in keys if k.startswith(f"{group}.") and k not in (*shared, *found.swept)]
        for option, of_option in runs.groupby(group) if own else ():
            texts = [f"{key}={override(of_option[key].iloc[0])}" for key in own]
            texts = [text for text in texts if not text.endswith("=null")]
            lines.append(" ".join([f"{group}={option}", *texts]))
    return lines


def _encode(figure: Any, kind: str) -> bytes:
    """Return the figure's file, without a date, so that the same runs give the same bytes."""
    buffer = io.BytesIO()
    dated = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
    figure.savefig(buffer, format=kind, metadata=dated[kind])
    return buffer.getvalue()


if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"  # a notebook's, inherited, may not be installed here
    with ignore_closed_pipe():
        main()

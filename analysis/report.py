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
import numpy as np
import pandas as pd

from randlabels import __version__
from randlabels.console import until_nobody_reads
from randlabels.store.rundir import write_atomic

from .collect import collect, parser, thresholds, warnings
from .formats import MAX_READABLE_ROWS, numeric, percent
from .runs import LEADING_KEYS, Collection
from .series import MAX_DRAWN_SERIES, series
from .tables import for_papers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTIONS = {
    "test_error": "Final test error, against the true labels",
    "time_to_fit": "Epochs until the training set is fitted",
    "corruption_vs_epochs": "Train accuracy in % after an epoch (0-based)",
}
"""The tables of means in the report, with their captions."""


def main(arguments: list[str] | None = None) -> None:
    """Collect, draw, and write `figures/*.png`, `figures/*.pdf` and `report.html`."""
    os.environ["MPLBACKEND"] = "agg"  # a notebook's, inherited, may not be installed here
    from . import figures

    given = sys.argv[1:] if arguments is None else arguments
    options = parser(__doc__).parse_args(given)
    out = options.out or options.dir / "summary"
    found, tables = collect(options.dir, out, options.fit_threshold)
    drawn = figures.build(found)
    (out / "figures").mkdir(exist_ok=True)
    images = {}
    for name, (figure, _) in drawn.items():
        images[name] = _encode(figure, "png")
        write_atomic(out / "figures" / f"{name}.png", images[name])
        write_atomic(out / "figures" / f"{name}.pdf", _encode(figure, "pdf"))
    write_atomic(out / "report.html", render(options.dir, found, tables, drawn, images, given))
    print(out / "report.html")
    for name, (_, caption) in drawn.items():
        print(f"{out / 'figures' / name}.png  {caption}")


def render(
    folder: Path,
    found: Collection,
    tables: dict[str, pd.DataFrame],
    drawn: dict[str, tuple[Figure, str]],
    images: dict[str, bytes],
    arguments: list[str],
) -> str:
    """Return the report as HTML; every name in it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    runs = found.runs
    done = runs["state"] == "done"
    _, _, listed = series(found)
    return environment.get_template("report.html.j2").render(
        title=f"Corruption sweep {folder.resolve().name}",
        version=__version__,
        data=", ".join(sorted(runs["dataset"].dropna().unique())),
        states=dict(sorted(Counter(runs["state"]).items())),
        warnings=warnings(found),
        figures=[_figure(figure, text, images[name]) for name, (figure, text) in drawn.items()],
        tables=[_table(name, tables[name]) for name in CAPTIONS],
        missing=int((~done).sum()),
        draws=_draws(found),
        shown=MAX_DRAWN_SERIES,
        hidden=max(0, len(listed) - MAX_DRAWN_SERIES),
        config=_shared(found),
        runs=_states(runs),
        commands=f"python -m {__package__}.report {shlex.join(arguments)}",
        thresholds=thresholds(runs),
        origin=_origin(runs),
    )


def _states(runs: pd.DataFrame) -> list[list[str]]:
    """Return run, state, final accuracies and epochs to fit of each run, as texts."""
    columns = ["run_id", "state", "final_train_acc", "final_test_acc", "epochs_to_fit"]
    rows: list[Any] = runs[columns].values.tolist()
    return [
        [run_id, state, percent(train), percent(test), "-" if pd.isna(fit) else f"{fit:.0f}"]
        for run_id, state, train, test, fit in rows
    ]


def _figure(figure: Figure, caption: str, png: bytes) -> dict[str, Any]:
    width, height = figure.get_size_inches() * 96
    return {
        "caption": caption,
        "png": base64.b64encode(png).decode(),
        "width": round(width),
        "height": round(height),
        "wide": width > 480,
    }


def _table(name: str, table: pd.DataFrame) -> dict[str, Any]:
    texts = for_papers(table.head(MAX_READABLE_ROWS))
    return {
        "caption": CAPTIONS[name],
        "columns": [(column, numeric(texts[column])) for column in texts],
        "rows": texts.values.tolist(),
        "more": max(0, len(table) - MAX_READABLE_ROWS),
        "file": f"{name}.csv",
    }


def _draws(found: Collection) -> str:
    if "corruption.seed" in found.swept:
        return "Deviations include the draw of the labels (corruption.seed)."
    return (
        "All runs of a level share one draw of the labels (corruption.seed), so deviations do "
        "not include it."
    )


def _shared(found: Collection) -> str:
    """Return the config keys that have one value in all runs, as the command line takes them."""
    lines = []
    for key in dict.fromkeys([*LEADING_KEYS, *sorted(found.keys)]):
        values = found.runs[key]
        if values.isna().all():
            lines.append(f"{key}=null")
        elif values.notna().all() and values.astype(str).nunique() == 1:
            value = values.iloc[0]
            text = str(value).lower() if isinstance(value, bool | np.bool_) else str(value)
            lines.append(f"{key}={text.replace(' ', '')}")
    return "\n".join(lines)


def _origin(runs: pd.DataFrame) -> str:
    """Return the commits, versions and devices of the runs."""
    parts = []
    for name, column in (("commit", "git"), ("torch", "used_torch"), ("device", "used_device")):
        values = sorted(runs[column].dropna().astype(str).unique())
        parts.append(f"{name} {', '.join(values) or 'unknown'}")
    return "; ".join(parts)


def _encode(figure: Figure, kind: str) -> bytes:
    """Return the figure's file, without a date, so that the same runs give the same bytes."""
    buffer = io.BytesIO()
    dated = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
    figure.savefig(buffer, format=kind, metadata=dated[kind])
    return buffer.getvalue()


if __name__ == "__main__":
    with until_nobody_reads():
        main()

"""`python -m analysis.compare DIR --to seed|paper|noise`: compare runs with published numbers.

The targets are the original code's logs, Zhang et al. 2017, and label noise (robust losses of
dmizr/phuber, double descent of josch14). A run covers a published number if all config keys of its
experiment are equal. Our number is the mean over the distinct runs that are done. `docs/metrics.md`
explains the verdicts.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from randlabels.console import print_table, until_nobody_reads

from . import published
from .collect import collect, parser
from .formats import write_csv, write_for_papers
from .published import covering
from .rows import SOLUTION
from .runs import Collection, epochs_to_fit
from .verdicts import Ours, judge

ERRORS = {"test_error": "test_acc", "test_error_noisy": "test_acc_noisy"}
"""Metrics that are published as errors and logged as accuracies."""

COLUMNS = "row metric epoch published ours sd n n_diverged".split()
COLUMNS += "difference verdict chosen source note".split()
"""Columns of the table that is written."""


def main(arguments: list[str] | None = None) -> None:
    """Collect, compare, print, and write `compare_<target>.csv`, `.md` and `.tex`."""
    options = parser("compare", __doc__)
    options.add_argument("--to", choices=published.targets(), required=True, help="whose numbers")
    chosen = options.parse_args(arguments)
    out = chosen.out or chosen.dir / "summary"
    found, _ = collect(chosen.dir, out, chosen.fit_threshold)
    numbers = published.read(chosen.to)
    table = compare(found, numbers)
    file = out / f"compare_{chosen.to}.csv"
    write_csv(table, file)
    readable = for_reading(table)
    write_for_papers(readable, file.with_suffix(""))
    covered = table["verdict"] != "missing"
    if covered.any():
        title = f"{chosen.dir} and {chosen.to}"
        print_table(title, readable.columns.tolist(), readable[covered].values.tolist())
        print(count_verdicts(table[covered]))
    print(f"{covered.sum()} of {len(table)} published numbers have runs; none covers")
    for source, missing in table[~covered].groupby("source", sort=False):
        near = published.nearest(found.runs, numbers.loc[missing.index, "keys"].unique().tolist())
        print(f"  {source}: {len(missing)} numbers, such as {missing['row'].iloc[0]}{near}")
    print(file)
    sys.stdout.flush()


def compare(found: Collection, numbers: pd.DataFrame) -> pd.DataFrame:
    """Return each published number with ours: mean, deviation, n, difference and verdict."""
    covered = {keys: covering(found.runs, keys) for keys in numbers["keys"].unique()}
    rows = []
    for number in numbers.itertuples(index=False):
        runs = covered[number.keys]
        diverged = int((runs & (found.runs["state"] == "diverged")).sum())
        ours = _measure(found, runs & found.counted, number)
        rows.append((ours.mean, ours.deviation, ours.n, diverged, judge(number, ours, diverged)))
    measured = ["ours", "sd", "n", "n_diverged", "verdict"]
    table = numbers.join(pd.DataFrame(rows, numbers.index, measured))
    table = table.rename(columns={"value": "published"})
    table["difference"] = table["ours"] - table["published"]
    return table[COLUMNS].reset_index(drop=True)


def _measure(found: Collection, chosen: pd.Series, number: Any) -> Ours:
    """Return our value of a published number's metric over the `chosen` runs (N,) bool."""
    runs = found.runs[chosen]
    if number.metric == "relative":
        return _measure_ratio(found, chosen, number)
    if number.metric in ERRORS:
        values = 1 - runs[f"final_{ERRORS[number.metric]}"]
    elif number.metric in SOLUTION:
        values = runs.get(number.metric, pd.Series(dtype=float))
    elif number.epoch == "last":
        values = runs[f"final_{number.metric}"]
    else:
        records = found.metrics(number.metric)
        wanted = records["run"].isin(runs.index) & (records["epoch"] == int(number.epoch))
        values = records.loc[wanted, number.metric].dropna()
    return Ours(values.mean(skipna=False), values.std(skipna=False), len(values))


def _measure_ratio(found: Collection, chosen: pd.Series, number: Any) -> Ours:
    """Return the time to fit over that on true labels, at the published number's threshold."""
    threshold = pd.Series(number.fit_threshold, index=found.runs.index)
    times = epochs_to_fit(found.runs, found.records, threshold)
    pairs = [pair for pair in number.keys.split() if not pair.startswith("corrupt")]
    clean = times[covering(found.runs, " ".join([*pairs, "corrupt=0.0"])) & found.counted]
    mine = times[chosen]
    if not len(clean):
        return Ours(np.nan, np.nan, 0)
    mean, base = mine.mean(skipna=False), clean.mean(skipna=False)
    deviation = mean / base * math.hypot(mine.std() / mean, clean.std() / base)
    return Ours(mean / base, deviation, len(mine))


def count_verdicts(table: pd.DataFrame) -> str:
    """Return how many numbers have which verdict, such as `27 agree, 12 differ`."""
    counts = Counter(table["verdict"].replace({"agrees": "agree", "differs": "differ"}))
    text = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items()))
    chosen = int(((table["verdict"] == "agrees") & (table["chosen"] != "")).sum())
    if chosen:
        text += f"; of those that agree, {chosen} by a setting chosen on the row"
    return f"Verdicts: {text}."


def for_reading(table: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison as texts, accuracies and errors in %."""
    percent = table["metric"].str.contains("acc|error")

    def to_texts(column: str, sign: str = "") -> pd.Series:
        shares = (100 * table[column]).map(f"{{:{sign}.2f}}".format)
        return shares.where(percent, table[column].map(f"{{:{sign}.4f}}".format))

    deviations = (" ± " + to_texts("sd")).where(table["sd"].notna(), "")
    chosen = [f" ({setting} chosen on this row)" if setting else "" for setting in table["chosen"]]
    readable = table[["row", "metric", "epoch"]].assign(
        published=to_texts("published"),
        ours=to_texts("ours") + deviations,
        n=table["n"],
        n_diverged=table["n_diverged"],
        difference=to_texts("difference", "+"),
        verdict=table["verdict"] + chosen,
    )
    return readable.astype("str").replace(["nan", "+nan"], "-")


if __name__ == "__main__":
    with until_nobody_reads():
        main()

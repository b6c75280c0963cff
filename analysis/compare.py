"""`python -m analysis.compare DIR --to seed|paper|noise|theory`: compare runs with other numbers.

The targets are the original code's logs, Zhang et al. 2017, label noise (robust losses of
dmizr/phuber, double descent of josch14), and the closed form of the error on noisy test labels. A
run covers a published number if all config keys of its experiment are equal. Our number is the mean
over the distinct runs that are done. `docs/metrics.md` explains the verdicts and the closed form.
"""

import math
import sys
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from randlabels.console import ignore_closed_pipe, print_table

from . import published, theory
from .collect import collect, parser
from .formats import list_values, write_csv, write_for_papers
from .published import Ours, covering, judge
from .rows import ORIGIN, SOLUTION
from .runs import Collection, epochs_to_fit

ERRORS = {"test_error": "test_acc", "test_error_noisy": "test_acc_noisy"}  # and what is logged
COLUMNS = "row metric epoch published ours sd n n_diverged".split()
MADE_WITH = [*ORIGIN, "command"]  # of our runs of a number, without the reference of a ratio
COLUMNS += ["difference", "verdict", "chosen", "source", "note", *MADE_WITH]


def main(arguments: list[str] | None = None) -> None:
    """Collect, compare, print, and write `compare_<target>.csv`, `.md` and `.tex`."""
    options = parser("compare", __doc__)
    targets = [*published.TARGETS, "theory"]
    options.add_argument("--to", choices=targets, required=True, help="the numbers to compare with")
    chosen = options.parse_args(arguments)
    out = chosen.out or chosen.dir / "summary"
    found, _ = collect(chosen.dir, out, chosen.fit_threshold)
    numbers = theory.numbers(found) if chosen.to == "theory" else published.read(chosen.to)
    if numbers.empty:
        sys.exit(
            f"Error: {chosen.dir} must hold runs at corrupt=0 and at higher levels of a corruption "
            "with a closed form; docs/metrics.md lists them"
        )
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
    if not covered.all():
        kind = "numbers" if chosen.to == "theory" else "published numbers"
        print(f"{covered.sum()} of {len(table)} {kind} have runs; these have none:")
    for source, missing in table[~covered].groupby("source", sort=False):
        print(f"  {source}: {len(missing)} numbers, such as {missing['row'].iloc[0]}")
    print(file)


def compare(found: Collection, numbers: pd.DataFrame) -> pd.DataFrame:
    """Return each published number with ours: mean, deviation, n, difference and verdict."""
    covered = {keys: covering(found.runs, keys) for keys in numbers["keys"].unique()}
    rows = []
    for number in numbers.itertuples(index=False):
        runs = covered[number.keys]
        diverged = int((runs & (found.runs["state"] == "diverged")).sum())
        mine = runs & found.counted
        ours = _measure(found, mine, number)
        origin = [list_values(found.runs.loc[mine, column]) for column in MADE_WITH]
        rows.append([*ours, diverged, judge(number, ours, diverged), *origin])
    measured = ["ours", "sd", "n", "n_diverged", "verdict", *MADE_WITH]
    table = numbers.join(pd.DataFrame(rows, numbers.index, measured))
    table = table.assign(published=table["value"], difference=table["ours"] - table["value"])
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
    if chosen := int((table["chosen"] != "")[table["verdict"] == "agrees"].sum()):
        text += f"; of those that agree, {chosen} by a setting chosen on the row"
    return f"Verdicts: {text}."


def for_reading(table: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison as texts, accuracies and errors in %."""
    percent = table["metric"].str.contains("acc|error")

    def to_texts(column: str, sign: str = "") -> pd.Series:
        shares = (100 * table[column]).map(f"{{:{sign}.2f}}".format)
        return shares.where(percent, table[column].map(f"{{:{sign}.4f}}".format))

    readable = table[COLUMNS[: COLUMNS.index("chosen")]].assign(
        published=to_texts("published"),
        ours=to_texts("ours") + (" ± " + to_texts("sd")).where(table["sd"].notna(), ""),
        difference=to_texts("difference", "+"),
        verdict=table["verdict"].where(
            table["chosen"] == "",
            table["verdict"] + " (" + table["chosen"] + " chosen on this row)",
        ),
    )
    return readable.drop(columns="sd").astype("str").replace(["nan", "+nan"], "-")


if __name__ == "__main__":
    with ignore_closed_pipe():
        main()

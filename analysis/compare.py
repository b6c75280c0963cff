"""`python -m analysis.compare DIR --to seed|paper|noise`: published numbers beside the runs' own.

The original code's logs, Zhang et al. 2017, and label noise (dmizr/phuber on robust losses).

A run covers a published number only if every config key that stands beside the number is equal;
our number is the mean over the seeds that are done, and n_diverged counts those that diverged. The
verdict is `agrees` if the difference is at most the tolerance, else `differs`; `diverged` if all
runs did, `not fitted` if a time to fit is asked of runs of which one never fitted, `missing` if no
run covers the number. Where the paper says that training failed to converge, a run that diverged
agrees. The tolerance is 3·s·√(1 + 1/n) from the sample deviation s of n seeds, as for one more draw
from the same distribution, where n is at least 3; and never less than 0.01 for accuracies and
errors, 5 % of a published loss (0.01 at least) or norm, 20 % of a published ratio of times, or the
uncertainty with which the number was read from a figure.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from randlabels.console import print_table, until_nobody_reads
from randlabels.store.metrics import LOSSES
from randlabels.store.rundir import FINISHED

from .collect import collect, parser
from .folders import SOLUTION
from .formats import write_csv, write_for_papers
from .runs import Collection

PUBLISHED = Path(__file__).parent / "published"
"""CSV files, one per target: row, metric, epoch (0-based, or `last`), value (empty where training
failed to converge), uncertainty (of reading a figure), source, note, keys."""

ERRORS = {"test_error": "test_acc", "test_error_noisy": "test_acc_noisy"}
"""Published as errors, logged as accuracies."""

ROUNDING = 1e-9
"""So that 0.87 differs from 0.86 by 0.01 and not by more."""

MOST_LACKING = 4
"""Keys in which a run may differ from a published one to be named as near."""

FEWEST_SEEDS = 3
"""Runs from which a deviation is taken seriously."""


def main(arguments: list[str] | None = None) -> None:
    """Collect, compare, print, and write `compare_<target>.csv`, `.md` and `.tex`."""
    options = parser(__doc__)
    targets = sorted(file.stem for file in PUBLISHED.glob("*.csv"))
    options.add_argument("--to", choices=targets, required=True, help="whose numbers")
    chosen = options.parse_args(arguments)
    found, _ = collect(chosen.dir, chosen.out, chosen.fit_threshold)
    published = pd.read_csv(PUBLISHED / f"{chosen.to}.csv", keep_default_na=True)
    table = compare(found, published)
    out = found.out / f"compare_{chosen.to}.csv"
    write_csv(table, out)
    readable = for_reading(table)
    write_for_papers(readable, out.with_suffix(""))
    covered = readable[table["verdict"] != "missing"]
    if len(covered):
        title = f"{chosen.dir} beside {chosen.to}"
        print_table(title, covered.columns.tolist(), covered.values.tolist())
    missing = table.loc[table["verdict"] == "missing"]
    print(f"{len(covered)} of {len(table)} published numbers have runs; none covers")
    for source, numbers in missing.groupby("source", sort=False):
        near = nearest(found.runs, published.loc[numbers.index, "keys"].unique().tolist())
        print(f"  {source}: {len(numbers)} numbers, as of {numbers['row'].iloc[0]}{near}")
    print(out)
    sys.stdout.flush()


def compare(found: Collection, published: pd.DataFrame) -> pd.DataFrame:
    """Each published number with ours: mean, deviation, n, difference and verdict."""
    matches = {keys: covering(found.runs, keys) for keys in published["keys"].unique()}
    rows = []
    number: Any
    for number in published.itertuples(index=False):
        runs = found.runs[matches[number.keys]]
        values = _values(found, runs[runs["state"] == "done"], number)
        rows.append(_judged(number, values, int((runs["state"] == "diverged").sum())))
    return pd.DataFrame(rows).astype({"n": int})


def covering(runs: pd.DataFrame, keys: str) -> pd.Series:
    """Which runs (N,) bool are finished and have all `keys`, `key=value` separated by spaces."""
    fits = runs["state"].isin(FINISHED)
    for key, value in _pairs(keys):
        if key not in runs or not fits.any():
            return fits & False
        fits &= runs[key].map(_canonical) == _canonical(value)
    return fits


def nearest(runs: pd.DataFrame, choices: list[str]) -> str:
    """The finished run that comes closest to any of `choices` of keys, and what it lacks of them;
    nothing if more than `MOST_LACKING` keys differ."""
    finished = runs[runs["state"].isin(FINISHED)]
    canonical: dict[str, pd.Series] = {}
    found, least = "", MOST_LACKING + 1
    for keys in choices:
        wanted = dict(_pairs(keys))
        if finished.empty or not wanted.keys() <= set(finished.columns):
            continue
        for key in wanted.keys() - canonical.keys():
            canonical[key] = finished[key].map(_canonical)
        differs = pd.DataFrame({k: canonical[k] != _canonical(v) for k, v in wanted.items()})
        run: Any = differs.sum(axis=1).idxmin()
        lacking = [key for key in wanted if differs.loc[run, key]]
        if len(lacking) < least:
            least = len(lacking)
            texts = [f"{k}={_text(finished.loc[run, k])}, not {_text(wanted[k])}" for k in lacking]
            found = f"; nearest is {finished.loc[run, 'run_id']} with {'; '.join(texts)}"
    return found


def _pairs(keys: str) -> list[tuple[str, Any]]:
    """Keys and values of `key=value` texts separated by spaces."""
    pairs = (part.partition("=") for part in keys.split())
    return [(key, yaml.safe_load(value)) for key, _, value in pairs]


def _text(value: Any) -> str:
    return "null" if _canonical(value) == "null" else str(value)


def _canonical(value: Any) -> str:
    """Equal for values that mean the same: 1 and 1.0, null and missing."""
    if isinstance(value, list):
        return str(value)
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "null"
    try:
        return str(value) if isinstance(value, bool) else repr(float(value))
    except ValueError:
        return str(value)


def _values(found: Collection, runs: pd.DataFrame, number: Any) -> pd.Series:
    """The values (n,) of a published number's metric in `runs`; NaN where one never fitted."""
    if number.metric == "relative":
        keys = number.keys.split()
        clean = " ".join("corrupt=0.0" if key.startswith("corrupt=") else key for key in keys)
        base = found.runs.loc[covering(found.runs, clean), "epochs_to_fit"]
        return runs["epochs_to_fit"] / base.mean(skipna=False) if len(base) else base
    if number.metric in ERRORS:
        return 1 - runs[f"final_{ERRORS[number.metric]}"]
    if number.metric in SOLUTION:
        return runs.get(number.metric, pd.Series(dtype=float))
    if number.epoch == "last":
        return runs[f"final_{number.metric}"]
    records = found.epochs.read(number.metric)
    wanted = records["run"].isin(runs.index) & (records["epoch"] == int(number.epoch))
    return records.loc[wanted, number.metric].dropna()


def _judged(number: Any, values: pd.Series, diverged: int) -> dict[str, Any]:
    """One row of the comparison."""
    value, metric = number.value, number.metric
    ours, deviation = values.mean(skipna=False), values.std(skipna=False)
    if not len(values):
        verdict = "diverged" if diverged else "missing"
        if diverged and pd.isna(value):
            verdict = "agrees"
    elif pd.isna(ours):
        verdict = "not fitted"
    elif pd.isna(value):
        verdict = "differs"
    else:
        verdict = "agrees" if abs(ours - value) <= tolerance(number, values) else "differs"
    return {
        "row": number.row,
        "metric": metric,
        "epoch": str(number.epoch),
        "published": value,
        "ours": ours,
        "sd": deviation,
        "n": len(values),
        "n_diverged": diverged,
        "difference": ours - value,
        "verdict": verdict,
        "source": number.source,
        "note": number.note,
    }


def tolerance(number: Any, values: pd.Series) -> float:
    """The largest difference that agrees, by the rule at the top of this file."""
    floor = 0.01
    if number.metric in SOLUTION:
        floor = 0.05 * number.value
    elif number.metric in LOSSES:
        floor = max(0.01, 0.05 * number.value)
    elif number.metric == "relative":
        floor = 0.2 * number.value
    if pd.notna(number.uncertainty):
        floor = max(floor, number.uncertainty)
    n = len(values)
    spread = 3 * values.std() * math.sqrt(1 + 1 / n) if n >= FEWEST_SEEDS else 0.0
    return max(floor, spread) + ROUNDING


def for_reading(table: pd.DataFrame) -> pd.DataFrame:
    """The comparison as texts, accuracies and errors in %."""
    percent = table["metric"].str.contains("acc|error")

    def text(column: str, sign: str = "") -> list[str]:
        return [
            "-" if pd.isna(v) else f"{100 * v:{sign}.2f}" if p else f"{v:{sign}.4f}"
            for v, p in zip(table[column], percent, strict=True)
        ]

    spread = [f" ± {s}" if s != "-" else "" for s in text("sd")]
    readable = table[["row", "metric", "epoch"]].copy()
    readable["published"] = text("published")
    readable["ours"] = [o + s for o, s in zip(text("ours"), spread, strict=True)]
    readable["n"] = table["n"]
    readable["n_diverged"] = table["n_diverged"]
    readable["difference"] = text("difference", "+")
    readable["verdict"] = table["verdict"]
    return readable.astype("str")


if __name__ == "__main__":
    with until_nobody_reads():
        main()

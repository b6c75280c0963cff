"""`python -m analysis.collect DIR [--out OUT]`: the tables of all runs under DIR, as CSV."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import pandas as pd

from randlabels.rundir import write_atomic

from .runs import RESOURCES, Collection, read
from .tables import TABLES


def main(arguments: list[str] | None = None) -> None:
    """Read, write the tables, and show the first of them with what is missing."""
    options = _parser().parse_args(arguments)
    if options.fit_threshold is not None and not 0 < options.fit_threshold <= 1:
        sys.exit(f"Error: --fit-threshold={options.fit_threshold} must be above 0 and at most 1")
    try:
        found = read(options.dir, options.fit_threshold)
    except OSError as error:
        sys.exit(f"Error: {error}")
    out = options.out or options.dir / "summary"
    tables = write(found, out)
    print(f"Train accuracy in % after each epoch, and final test accuracy ({options.dir})\n")
    preview = _preview(tables["corruption_vs_epochs"])
    preview["test"] = (100 * (1 - tables["test_error"]["test_error_mean"])).round(1)
    print(preview.to_string(index=False, na_rep="-"))
    print(f"\n{_states(found.runs)}")
    for warning in [*found.problems, *mixtures(found.runs)]:
        print(f"Warning: {warning}")
    print("\n".join(f"{out / name}.csv" for name in TABLES))


def write(found: Collection, out: Path) -> dict[str, pd.DataFrame]:
    """Write each table to `<out>/<name>.csv`, epochs to epochs.parquet too; the tables by name.

    The same runs give the same bytes. Each file is replaced as a whole.
    """
    out.mkdir(parents=True, exist_ok=True)
    tables = {name: build(found) for name, build in TABLES.items()}
    for name, table in tables.items():
        write_atomic(out / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    write_atomic(out / "epochs.parquet", tables["epochs"].to_parquet(index=False))
    return tables


def mixtures(runs: pd.DataFrame) -> list[str]:
    """What differs in how the finished runs were computed, one sentence each."""
    finished = runs[runs["state"].isin(["done", "diverged"])]
    found = []
    for column in [*(f"used_{name}" for name in RESOURCES), "git"]:
        values = finished[column].dropna().astype(str)
        if values.nunique() > 1:
            counts = ", ".join(f"{value} ({n})" for value, n in sorted(Counter(values).items()))
            found.append(f"the tables mix runs with different {column}: {counts}")
    return found


def _preview(curves: pd.DataFrame, columns: int = 8) -> pd.DataFrame:
    """The table with at most `columns` epochs, evenly spaced, the first and last among them."""
    epochs = [c for c in curves.columns if c.isdecimal()]
    steps = min(columns, len(epochs))
    shown = [epochs[round(i * (len(epochs) - 1) / max(1, steps - 1))] for i in range(steps)]
    keys = [c for c in curves.columns if c not in epochs]
    return curves[keys + shown].assign(**{e: (100 * curves[e]).round(1) for e in shown})


def _states(runs: pd.DataFrame) -> str:
    counts = Counter(runs["state"])
    text = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
    missing = [f"  {r.run_id}: {r.state}" for r in runs.itertuples() if r.state != "done"]
    head = f"{len(runs)} runs: {text}."
    return "\n".join([f"{head} Means leave out these:", *missing]) if missing else head


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="analysis.collect", description=__doc__)
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder of runs, such as runs/demo")
    parser.add_argument("--out", type=Path, help="folder of the tables (default: DIR/summary)")
    parser.add_argument(
        "--fit-threshold",
        type=float,
        metavar="ACC",
        help="train accuracy, 0..1, from which a run counts as fitted (default: its config's)",
    )
    return parser


if __name__ == "__main__":
    main()

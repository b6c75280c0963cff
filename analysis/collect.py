"""`python -m analysis.collect DIR [--out OUT]`: the tables of all runs under DIR."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import pandas as pd

from randlabels.console import no_folder, until_nobody_reads
from randlabels.store.rundir import FINISHED

from .formats import LONGEST, write_csv, write_for_papers
from .memorisation import in_the_end
from .runs import USED, Collection, read
from .tables import TABLES, for_papers, runs_in_short

SHOWN = 60
"""Rows that are printed."""

REMEDIES = {
    "used_precision": "; precision=auto decides by model, precision=fp32 is the same for all"
}
"""How to avoid a mixture that no machine is the reason of, by column."""


def main(arguments: list[str] | None = None) -> None:
    """Read, write the tables, and show the first of them with what is missing."""
    options = parser(__doc__).parse_args(arguments)
    found, tables = collect(options.dir, options.out, options.fit_threshold)
    print(f"Train accuracy in % after each epoch, and final test accuracy ({options.dir})\n")
    preview = for_papers(tables["corruption_vs_epochs"].head(SHOWN))
    error = tables["test_error"]["test_error_mean"].head(SHOWN)
    preview["test"] = [f"{100 * (1 - e):.1f}" if pd.notna(e) else "-" for e in error]
    print(preview.to_string(index=False))
    if (more := len(tables["test_error"]) - SHOWN) > 0:
        print(f"and {more} more rows")
    print(f"\n{states(found.runs)}")
    for warning in [*found.problems, *mixtures(found.runs)]:
        print(f"Warning: {warning}")
    print("\n".join(f"{found.out / name}.csv" for name in ["epochs", *TABLES]))
    print(f"Figures: python -m {__package__}.report {options.dir}")


def collect(
    folder: Path, out: Path | None, fit_threshold: float | None = None
) -> tuple[Collection, dict[str, pd.DataFrame]]:
    """Read the runs under `folder` and write their tables to `out` (null: `<folder>/summary`).

    The same runs give the same bytes; each file is replaced as a whole. A folder without runs
    ends the program with a sentence.
    """
    if fit_threshold is not None and not 0 < fit_threshold <= 1:
        sys.exit(f"Error: --fit-threshold={fit_threshold} must be above 0 and at most 1")
    try:
        if not folder.is_dir():
            raise FileNotFoundError(no_folder(folder))
        if (folder / "config.yaml").is_file():
            raise FileNotFoundError(f"{folder} is a single run; give the folder above it")
        found = read(folder, out or folder / "summary", fit_threshold)
    except OSError as error:
        sys.exit(f"Error: {error}")
    tables = {name: build(found) for name, build in TABLES.items()}
    readable = {
        **tables,
        "runs": runs_in_short(tables["runs"], found.swept),
        "memorisation": in_the_end(tables["memorisation"]),
    }
    for name, table in tables.items():
        write_csv(table, found.out / f"{name}.csv")
        write_for_papers(for_papers(readable[name].head(LONGEST)), found.out / name)
    return found, tables


def mixtures(runs: pd.DataFrame) -> list[str]:
    """What differs in how the finished runs were computed, one sentence each."""
    finished = runs[runs["state"].isin(FINISHED)]
    found = []
    for column in [*USED, "git"]:
        values = finished[column].dropna().astype(str)
        if values.nunique() > 1:
            counts = ", ".join(f"{value} ({n})" for value, n in sorted(Counter(values).items()))
            remedy = REMEDIES.get(column, "")
            found.append(f"the tables mix runs with different {column}: {counts}{remedy}")
    if "," in (text := thresholds(finished)):
        found.append(f"time_to_fit mixes runs with different fit_threshold: {text}")
    return found


def thresholds(runs: pd.DataFrame) -> str:
    """The train accuracies from which runs count as fitted, such as `0.999`."""
    values = sorted(runs["fit_threshold"].dropna().unique())
    return ", ".join(f"{value:g}" for value in values) or "-"


def states(runs: pd.DataFrame) -> str:
    """How many runs are in which state, and a line for each that means leave out."""
    counts = Counter(runs["state"])
    text = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
    left_out = runs.loc[runs["state"] != "done", ["run_id", "state"]]
    missing = [f"  {run_id}: {state}" for run_id, state in left_out.itertuples(index=False)]
    head = f"{len(runs)} runs: {text}."
    return "\n".join([f"{head} Means leave out these:", *missing]) if missing else head


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments of the commands that collect."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("dir", type=Path, metavar="DIR", help="folder of runs")
    arguments.add_argument("--out", type=Path, help="folder of the tables (default: DIR/summary)")
    arguments.add_argument(
        "--fit-threshold",
        type=float,
        metavar="ACC",
        help="train accuracy, 0..1, from which a run counts as fitted (default: its config's)",
    )
    return arguments


if __name__ == "__main__":
    with until_nobody_reads():
        main()

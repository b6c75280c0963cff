"""`python -m analysis.collect DIR [--out OUT]`: write the tables of all runs under DIR."""

import argparse
import io
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from randlabels.console import ignore_closed_pipe, pluralize
from randlabels.store.files import write_atomic
from randlabels.store.rundir import FINISHED

from . import detection
from .formats import MAX_READABLE_ROWS, list_values, write_csv, write_for_papers
from .rows import ORIGIN
from .runs import Collection, read
from .tables import TABLES, for_papers, shorten_runs

MAX_PRINTED_ROWS = 60
# Advice that is shown if runs differ in this column.
ADVICE = {"used_precision": "; precision=auto decides by model, precision=fp32 is the same for all"}


def main(arguments: list[str] | None = None) -> None:
    """Read the runs, write the tables, and print the first of them with what is missing."""
    options = parser("collect", __doc__).parse_args(arguments)
    out = options.out or options.dir / "summary"
    found, tables = collect(options.dir, out, options.fit_threshold)
    print(f"Train accuracy in % after each epoch, and final test accuracy ({options.dir})\n")
    preview = for_papers(tables["corruption_vs_epochs"].head(MAX_PRINTED_ROWS))
    error = tables["test_error"]["test_error_mean"].head(MAX_PRINTED_ROWS)
    preview["test"] = [f"{100 * (1 - e):.1f}" if pd.notna(e) else "-" for e in error]
    print(preview.to_string(index=False))
    if (more := len(tables["test_error"]) - MAX_PRINTED_ROWS) > 0:
        print(f"and {more} more rows")
    counts = found.runs["state"].value_counts().sort_index()
    states = ", ".join(f"{n} {state}" for state, n in counts.items())
    left_out = found.runs.loc[found.runs["state"] != "done", ["run_id", "state"]]
    note = " Means leave out these:" if len(left_out) else ""
    print(f"\n{pluralize(len(found.runs), 'run')}: {states}.{note}")
    for run_id, state in left_out.itertuples(index=False):
        print(f"  {run_id}: {state}")
    print(f"Fitted: a train accuracy of at least {thresholds(found.runs)} (--fit-threshold)")
    for warning in warnings(found):
        print(f"Warning: {warning}")
    print("\n".join(f"{out / name}.csv" for name in ["epochs", *tables]))
    print(f"Figures: python -m {__package__}.report {options.dir}")


def collect(
    folder: Path, out: Path | None = None, fit_threshold: float | None = None
) -> tuple[Collection, dict[str, pd.DataFrame]]:
    """Read the runs under `folder` and write their tables to `out` (default: `<folder>/summary`).

    The same runs give the same bytes. Each file is replaced as a whole, so that several processes
    may collect at once. A folder without runs ends the program with a sentence.
    """
    if fit_threshold is not None and not 0 < fit_threshold <= 1:
        sys.exit(f"Error: --fit-threshold={fit_threshold} must be above 0 and at most 1")
    try:
        if (folder / "config.yaml").is_file():
            raise FileNotFoundError(f"{folder} is a single run; give the folder above it")
        found = read(folder, fit_threshold)
        out = out or folder / "summary"
        out.mkdir(parents=True, exist_ok=True)
        records, parquet = found.epochs(), io.BytesIO()
        pa.parquet.write_table(records, parquet, use_dictionary=["run_id", *found.swept])
        write_atomic(out / "epochs.parquet", parquet.getbuffer())
        write_csv(records, out / "epochs.csv")
        tables = {name: build(found) for name, build in TABLES.items()}
        if len(scores := detection.table(found)):
            tables["detection"] = scores
        else:
            for file in map(out.joinpath, ("detection.csv", "detection.md", "detection.tex")):
                file.unlink(missing_ok=True)  # of runs that are not there any more
        memorisation = tables["memorisation"]
        keys = list(memorisation.columns[: memorisation.columns.get_loc("epoch")])
        readable = {
            **tables,
            "runs": shorten_runs(tables["runs"], found.swept),
            "memorisation": memorisation.drop_duplicates(keys, keep="last"),  # the last epoch
        }
        for name, table in tables.items():
            write_csv(table, out / f"{name}.csv")
            write_for_papers(for_papers(readable[name].head(MAX_READABLE_ROWS)), out / name)
    except OSError as error:
        sys.exit(f"Error: {error}")
    return found, tables


def warnings(found: Collection) -> list[str]:
    """Return a sentence for each problem and for each reason not to compare the finished runs."""
    finished = found.runs[found.runs["state"].isin(FINISHED)]
    sentences = list(dict.fromkeys(found.problems))
    if repeated := int(found.runs["repeated"].sum()):
        sentences.append(
            f"{pluralize(repeated, 'run')} repeat the computation of another, since nothing is "
            "drawn from the seed that differs; n and n_done count distinct computations"
        )
    for column in ORIGIN:
        values = finished[column].dropna().astype(str)
        if values.nunique() > 1:
            counts = ", ".join(f"{value} ({n})" for value, n in sorted(Counter(values).items()))
            advice = ADVICE.get(column, "")
            sentences.append(f"the tables mix runs with different {column}: {counts}{advice}")
    for key in found.keys:
        group, _, leaf = key.rpartition(".")
        if leaf == "code_sha256":
            versions = finished.groupby(group)[key].nunique()
            sentences += [
                f"the tables mix {number} versions of the file of {group}={name}; see {key}"
                for name, number in versions[versions > 1].items()
            ]
    if "," in (text := thresholds(finished)):
        sentences.append(f"time_to_fit mixes runs with different fit_threshold: {text}")
    if (coarsest := finished["eval_every"].max()) > 1:
        sentences.append(
            f"time_to_fit has a resolution of eval_every={coarsest} epochs, which also changes its "
            "ratios; use eval_every=1 to compare them with others"
        )
    return sentences


def thresholds(runs: pd.DataFrame) -> str:
    """Return the train accuracies from which runs count as fitted, such as `0.999`."""
    return list_values(runs["fit_threshold"].dropna().map("{:g}".format)) or "-"


def parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the arguments of the commands that collect."""
    program = f"python -m {__package__}.{command}"
    arguments = argparse.ArgumentParser(program, description=description)
    arguments.add_argument("dir", type=Path, metavar="DIR", help="folder of runs")
    arguments.add_argument("--out", type=Path, help="folder of the tables (default: DIR/summary)")
    arguments.add_argument(
        "--fit-threshold",
        type=float,
        metavar="ACC",
        help="train accuracy, 0..1, from which a run counts as fitted "
        "(default: the fit_threshold that the run was last launched with)",
    )
    return arguments


if __name__ == "__main__":
    with ignore_closed_pipe():
        main()

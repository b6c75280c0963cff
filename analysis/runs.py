"""All runs under a folder: one table row per run, and the records of all runs."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.json

from randlabels.store import metrics
from randlabels.store.progress import differing_keys
from randlabels.store.rundir import FINISHED

from . import rows
from .rows import ORIGIN, Row

LEADING_KEYS = ["dataset", "model", "corruption", "corrupt"]  # config keys that every table shows
SEEDS = ["seed", "corruption.seed"]  # config keys over which tables take means
FIXED_FEATURES = ["raw", "gabor"]  # of a kernel, which are not drawn from `seed`
# States, by how far a run has come.
PROGRESS = "planned foreign damaged failed interrupted running diverged done".split()
# The keys that every record has. Other numeric keys are added as they are found.
SCHEMA = pa.schema([(k, pa.int64() if k == "epoch" else pa.float64()) for k in metrics.KEYS])
# Faults of metrics.jsonl by run: a sentence, and whether the records are unusable.
Damage = dict[int, tuple[str, bool]]


@dataclass
class Collection:
    """All runs under a folder.

    runs: one row per run, planned runs included, sorted by the swept keys. Columns: run_id, state,
        folder, all config keys, `final_` and `best_` metrics, epochs_to_fit, fit_threshold,
        parameters, seconds, `ORIGIN`, share_changed (of the labels trained on), and `repeated`
        (bool): the same computation is in the table already, so it enters no mean.
    records: columns `run` (row in `runs`), `metrics.KEYS`, `metrics.SENSITIVITY` where a record has
        them, and every other numeric key, sorted; one row per record. What a record lacks is null.
    swept: the leading keys, then every other key with several values, and last the seeds: `seed`
        in any case, `corruption.seed` if it has several values.
    keys: all config keys.
    problems: one sentence for each folder that could not be read in full.
    """

    runs: pd.DataFrame
    records: pa.Table
    swept: list[str]
    keys: set[str]
    problems: list[str]

    def metrics(self, *names: str) -> pd.DataFrame:
        """Return the columns `run`, `epoch` and `names` of the records."""
        return self.records.select(["run", "epoch", *names]).to_pandas()

    def epochs(self) -> pa.Table:
        """Return the table of epochs.csv: run id, swept keys and metrics of each record."""
        owners = pa.Table.from_pandas(self.runs[["run_id", *self.swept]], preserve_index=False)
        table = owners.replace_schema_metadata().take(self.records["run"].combine_chunks())
        for field in self.records.drop_columns("run").schema:
            table = table.append_column(field, self.records[field.name])
        return table

    @property
    def counted(self) -> pd.Series:
        """Return which runs (N,) bool enter the means: those that are done and not a repetition."""
        return (self.runs["state"] == "done") & ~self.runs["repeated"]


def read(root: Path, fit_threshold: float | None = None) -> Collection:
    """Read all runs at or under `root`, in every state.

    A run that stands in several folders counts once, by the folder that has come furthest.

    fit_threshold: train accuracy (0..1) from which a run counts as fitted; None: the one that
        the run was last launched with.

    Raises:
        FileNotFoundError: `root` is not a folder, or holds no run.
    """
    listed, problems = rows.read(root)
    chosen: dict[tuple[str, Any], Row] = {}
    for row in sorted(listed, key=lambda row: -PROGRESS.index(row["state"])):
        key = (row["run_id"], row["keys"].get("dataset.sha256"))
        if chosen.setdefault(key, row) is not row:
            problems.append(f"{row['folder']} holds the run of another folder; it counts once")
    keys = {key for row in chosen.values() for key in row["keys"]}
    several = differing_keys(row["keys"] for row in chosen.values())
    others = sorted({*several} - {*LEADING_KEYS, *SEEDS})
    seeds = [key for key in reversed(SEEDS) if key in [*several, "seed"]]
    swept = [*LEADING_KEYS, *others, *seeds]
    runs = _build_frame(list(chosen.values()), keys)
    runs = runs.sort_values([*swept, "run_id"], kind="stable", ignore_index=True, key=rank)
    read_in_full = ~runs["state"].isin(["planned", "foreign", "damaged"])
    records, damage = _read_records(runs.loc[read_in_full, "folder"], runs["records"])
    for i, (reason, unusable) in damage.items():
        problems.append(f"{runs['folder'][i]}/metrics.jsonl {reason}")
        if unusable:
            runs.loc[i, "state"] = "damaged"
    runs["repeated"] = _find_repeated(runs, swept)
    if fit_threshold is not None:
        runs["fit_threshold"] = fit_threshold
    runs["epochs_to_fit"] = epochs_to_fit(runs, records, runs["fit_threshold"])
    return Collection(runs, records, swept, keys, sorted(problems))


def _read_records(folders: pd.Series, expected: pd.Series) -> tuple[pa.Table, Damage]:
    """Return the records of runs, and what is damaged; NaN are `expected` of unfinished ones."""
    damage: Damage = {}
    nothing = SCHEMA.empty_table().append_column("run", pa.array([], pa.int64()))

    def read_run(run: int) -> pa.Table:
        try:
            content = (Path(folders[run]) / "metrics.jsonl").read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            lines = whole.count(b"\n")
            if not np.isnan(expected[run]) and lines != expected[run]:
                raise pa.ArrowInvalid(f"{lines} of {expected[run]:.0f} records")
            if len(whole) < len(content):
                damage[run] = "ends with a torn line, which is skipped", False
            return _parse(whole, run) if whole else nothing
        except OSError as error:
            if not isinstance(error, FileNotFoundError) or expected[run] > 0:
                damage[run] = f"cannot be read ({error.strerror})", expected[run] > 0
        except pa.ArrowInvalid as error:
            damage[run] = f"is damaged: {str(error).partition(chr(10))[0]}", True
        return nothing

    with ThreadPoolExecutor() as pool:
        tables = [nothing, *pool.map(read_run, map(int, folders.index))]
    table = pa.concat_tables(tables, promote_options="default")
    known = [name for name in metrics.SENSITIVITY if name in table.column_names]
    added = sorted(set(table.column_names) - {"run", *metrics.KEYS, *known})
    return table.select(["run", *metrics.KEYS, *known, *added]).combine_chunks(), damage


def _parse(content: bytes, run: int) -> pa.Table:
    """Return the records of whole lines of JSON; ArrowInvalid if they are not epochs 0, 1, ..."""
    # One block, so that an error names the line of the log.
    blocks = pa.json.ReadOptions(use_threads=False, block_size=len(content))
    options = pa.json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="infer")
    table = pa.json.read_json(pa.BufferReader(content), blocks, options)
    if table.num_rows != content.count(b"\n") or table["epoch"].null_count:
        raise pa.ArrowInvalid("a line is not a record")
    if not np.array_equal(table["epoch"], np.arange(table.num_rows)):
        raise pa.ArrowInvalid("its epochs are not 0, 1, 2, ...")
    columns = {"epoch": table["epoch"]}
    for field in table.schema:
        number = pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
        if field.name not in ("epoch", "run") and (number or pa.types.is_null(field.type)):
            columns[field.name] = table[field.name].cast(pa.float64())
    return pa.table({**columns, "run": np.full(table.num_rows, run)})


def _build_frame(listed: list[Row], keys: set[str]) -> pd.DataFrame:
    """Return the rows as a table, with columns also for results that no run has yet."""
    configs = [row["keys"] for row in listed]
    frame = pd.DataFrame([{**row, **row["keys"]} for row in listed]).drop(columns="keys")
    for key in keys:
        values = [config.get(key) for config in configs]
        types = set(map(type, values))
        if types == {int, type(None)}:
            frame[key] = pd.array(values, dtype="Int64")  # integers, some of them null
        elif len(types - {type(None)} - {int, float}) and len(types) > 1:
            frame[key] = ["null" if value is None else str(value) for value in values]
    measured = [f"{kind}_{key}" for kind in ("final", "best") for key in metrics.MEASURED]
    added = {name for name in map(str, frame) if name.startswith(("final_", "best_"))}
    numbers = ["parameters", "seconds", "share_changed", "records"]
    numbers += [*measured, *sorted(added - set(measured))]
    results = ["fit_threshold", "classes", "command", *numbers, *ORIGIN]
    others = frame.columns.difference(results, sort=False)
    dtypes = dict.fromkeys(numbers, "float64") | {"used_threads": "Int64"}
    return frame.reindex(columns=[*others, *results]).astype(dtypes)


def rank(column: pd.Series) -> pd.Series:
    """Return a column (N,) as values that sort as a person would: `[16]`, `[64]`, `[256]`."""
    if pd.api.types.is_numeric_dtype(column):
        return column

    def split_numbers(text: Any) -> list[Any]:
        return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", str(text))]

    values = sorted(set(column.dropna()), key=split_numbers)
    return column.map({value: i for i, value in enumerate(values)})


def _find_repeated(runs: pd.DataFrame, swept: list[str]) -> pd.Series:
    """Return which runs (N,) bool differ from another only in a seed from which nothing is drawn.

    That is `corruption.seed` without corruption, and `seed` for a kernel without random features.
    The run that has come furthest counts.
    """
    identity = runs[swept].astype("str")
    if "corruption.seed" in swept:
        identity.loc[runs["corrupt"] == 0, "corruption.seed"] = ""
    if "model.features" in runs:
        identity.loc[runs["model.features"].isin(FIXED_FEATURES), "seed"] = ""
    furthest = (-runs["state"].map(PROGRESS.index)).sort_values(kind="stable").index
    return identity.loc[furthest].duplicated().reindex(runs.index)


def epochs_to_fit(runs: pd.DataFrame, records: pa.Table, threshold: pd.Series) -> pd.Series:
    """Return the epochs (1-based) until train_acc reached the threshold (N,), for finished runs."""
    needed = threshold.fillna(np.inf).to_numpy(dtype=float)
    run, accuracy = records["run"].to_numpy(), records["train_acc"].to_numpy()
    reached = accuracy >= needed[run]
    first = pd.Series(records["epoch"].to_numpy()[reached]).groupby(run[reached]).min() + 1
    return first.reindex(runs.index).where(runs["state"].isin(FINISHED)).astype(float)

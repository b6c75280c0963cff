"""The records of all runs: read metrics.jsonl, write epochs.parquet and epochs.csv."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet

from randlabels.store import metrics

from .formats import as_csv, is_text, replacing

ROWS_WRITTEN_AT_ONCE = 1 << 18

# The keys that every record has. Other numeric keys are added as they are found.
SCHEMA = pa.schema([(k, pa.int64() if k == "epoch" else pa.float64()) for k in metrics.KEYS])
# Faults of metrics.jsonl by run: a sentence, and whether the records are unusable.
Damage = dict[int, tuple[str, bool]]


def read(folders: pd.Series, expected: pd.Series) -> tuple[pa.Table, Damage]:
    """Return the records of the runs in `folders`, and what is damaged.

    expected: by run, the number of records of a finished run; NaN for others.

    The table has the columns `run` (of the index of `folders`), `metrics.KEYS`,
    `metrics.SENSITIVITY` where a record has them, and every other numeric key, sorted. A metric
    that a record lacks is null. A run whose records are unusable has none.
    """
    damage: Damage = {}
    nothing = SCHEMA.empty_table().append_column("run", pa.array([], pa.int64()))

    def read_run(run: int) -> pa.Table:
        content = _read_lines(Path(folders[run]) / "metrics.jsonl", expected[run], damage, run)
        try:
            return _parse(content, run) if content else nothing
        except pa.ArrowInvalid as error:
            damage[run] = f"is damaged: {str(error).partition(chr(10))[0]}", True
            return nothing

    with ThreadPoolExecutor() as pool:
        tables = [nothing, *pool.map(read_run, map(int, folders.index))]
    table = pa.concat_tables(tables, promote_options="default")
    known = [name for name in metrics.SENSITIVITY if name in table.column_names]
    added = sorted(set(table.column_names) - {"run", *metrics.KEYS, *known})
    return table.select(["run", *metrics.KEYS, *known, *added]).combine_chunks(), damage


def _read_lines(file: Path, expected: float, damage: Damage, run: int) -> bytes:
    """Return the whole lines of a log, or nothing if it is not as long as `expected`."""
    try:
        content = file.read_bytes()
    except OSError as error:
        if not isinstance(error, FileNotFoundError) or expected > 0:
            damage[run] = f"cannot be read ({error.strerror})", expected > 0
        return b""
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        damage[run] = "ends with a torn line, which is skipped", False
    lines = whole.count(b"\n")
    if not np.isnan(expected) and lines != expected:
        damage[run] = f"is damaged: {lines} of {expected:.0f} records", True
        return b""
    return whole


def _parse(content: bytes, run: int) -> pa.Table:
    """Return the records of whole lines of JSON.

    Raises:
        pa.ArrowInvalid: a line is not a record, or the epochs are not 0, 1, 2, ...
    """
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


def write(out: Path, runs: pd.DataFrame, keys: list[str], records: pa.Table) -> None:
    """Write `<out>/epochs.parquet` and `<out>/epochs.csv`, the table of `with_keys`. Each file is
    replaced as a whole."""
    schema = with_keys(runs, keys, records.slice(0, 0)).schema
    texts = [field.name for field in schema if is_text(field.type)]
    with (
        replacing(out / "epochs.parquet") as binary,
        replacing(out / "epochs.csv") as text,
        pa.parquet.ParquetWriter(binary, schema, use_dictionary=texts) as parquet,
        open(text, "wb") as csv,
    ):
        csv.write(as_csv(schema.empty_table()))
        for start in range(0, records.num_rows, ROWS_WRITTEN_AT_ONCE):
            table = with_keys(runs, keys, records.slice(start, ROWS_WRITTEN_AT_ONCE))
            parquet.write_table(table)
            csv.write(as_csv(table, header=False))


def with_keys(runs: pd.DataFrame, keys: list[str], records: pa.Table) -> pa.Table:
    """Return `records` with the run's id and `keys` in place of its row in `runs`."""
    owners = pa.Table.from_pandas(runs[["run_id", *keys]], preserve_index=False)
    table = owners.replace_schema_metadata().take(records["run"].combine_chunks())
    for field in records.drop_columns("run").schema:
        table = table.append_column(field, records[field.name])
    return table

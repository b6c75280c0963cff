"""All records of all runs: epochs.parquet and epochs.csv, brought up to date block by block.

A block holds some dozen neighbouring runs of the sorted table. Where a block ends depends on the
run ids alone, so that a run that comes or goes changes one block, and a block is named after what
it was made of. A block that is unchanged is neither parsed nor formatted again: its parquet file
stays, and its lines are copied from the old epochs.csv. (A run that brings a new swept key changes
the columns, and with them every block, as does the first that measures `sensitivity`.)
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet

from randlabels.store import metrics
from randlabels.store.rundir import read_json, write_atomic

from .formats import as_csv
from .splice import rewrite, status_of

RUNS_PER_BLOCK = 64
"""On average."""

SCHEMA = pa.schema(
    [
        (key, pa.int64() if key == "epoch" else pa.float64())
        for key in metrics.KEYS + metrics.SENSITIVITY
    ]
)


@dataclass
class Block:
    """Neighbouring runs.

    name: digest of the runs, their keys, the state of their files, and the code.
    runs: their positions in the table of runs.
    rows: number of records of each.
    problems: reasons by position among them; `damaged` are those whose records are unusable.
    """

    name: str
    runs: list[int]
    rows: list[int] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)
    damaged: list[int] = field(default_factory=list)


@dataclass
class Epochs:
    """The records of a table of runs, on disk.

    files: parquet, one per block, in order.
    columns: what was read of them.
    problems: sentences by position in the table; `damaged` are runs without usable records.
    """

    files: list[Path]
    columns: dict[str, np.ndarray]
    problems: dict[int, str]
    damaged: set[int]

    def read(self, *keys: str) -> pd.DataFrame:
        """Columns `run` (position in the table), `epoch` and the metrics `keys`."""
        if missing := [key for key in ("epoch", *keys) if key not in self.columns]:
            if self.files:
                table = pa.parquet.read_table(self.files, columns=missing)
            else:
                table = SCHEMA.empty_table()
            self.columns |= {key: table[key].to_numpy() for key in missing}
        return pd.DataFrame({key: self.columns[key] for key in ("run", "epoch", *keys)}, copy=False)

    @classmethod
    def update(cls, out: Path, runs: pd.DataFrame, keys: list[str], code: str) -> Epochs:
        """Bring `<out>/epochs.parquet/` and `<out>/epochs.csv` up to date with `runs`, whose
        sorted rows have the columns run_id, folder, signature, records and `keys`. What other
        `code` made is made anew."""
        folder, index_file = out / "epochs.parquet", out / ".cache" / "epochs.json"
        folder.mkdir(parents=True, exist_ok=True)
        index_file.parent.mkdir(exist_ok=True)
        index = read_json(index_file) or {}
        known = index.get("blocks", {})
        measured = list(metrics.KEYS)
        if np.any(pd.to_numeric(runs.get("sensitivity", 0), errors="coerce") > 0):
            measured += metrics.SENSITIVITY
        blocks = _cut(runs, keys, [code, keys, measured])
        owners = pa.Table.from_pandas(runs[["run_id", *keys]], preserve_index=False)
        owners = owners.replace_schema_metadata()
        _write_blocks(folder, blocks, known, lambda block: _parse(block, runs, owners, measured))
        files = [_file(folder, i, block) for i, block in enumerate(blocks)]
        table = out / "epochs.csv"
        old = index.get("places", {}) if index.get("csv") == status_of(table) else {}

        def lines(position: int) -> bytes:
            return as_csv(pa.parquet.read_table(files[position]), header=False)

        header = as_csv(pa.table({name: [] for name in [*owners.column_names, *measured]}))
        places = rewrite(table, header, [block.name for block in blocks], lines, old)
        content = {
            "blocks": {
                block.name: [block.rows, block.problems, block.damaged, status_of(file)]
                for block, file in zip(blocks, files, strict=True)
            },
            "places": places,
            "csv": status_of(table),
        }
        write_atomic(index_file, json.dumps(content))
        run = [np.repeat(block.runs, block.rows) for block in blocks]
        return cls(
            files,
            {"run": np.concatenate([np.empty(0, dtype=int), *run])},
            {
                block.runs[i]: f"{runs['folder'].iloc[block.runs[i]]}/metrics.jsonl {reason}"
                for block in blocks
                for i, reason in block.problems.items()
            },
            {b.runs[i] for b in blocks for i in b.damaged},
        )


def _write_blocks(
    folder: Path,
    blocks: list[Block],
    known: Mapping[str, Any],
    parse: Callable[[Block], pa.Table],
) -> None:
    """Bring the parquet files up to date.

    What the last call wrote of a block is `known`, and believed while its file is as it was.
    """
    for file in folder.glob("*.moved"):  # of a call that was interrupted
        file.unlink()
    files = {file.stem.partition("-")[2]: file for file in folder.glob("*.parquet")}
    for i, block in enumerate(blocks):
        target = _file(folder, i, block)
        if block.name in known and known[block.name][3] == status_of(files.get(block.name)):
            block.rows, problems, block.damaged, _ = known[block.name]
            block.problems = {int(k): v for k, v in problems.items()}
            if (file := files.pop(block.name)) != target:
                file.rename(target.with_suffix(".moved"))
        else:
            buffer = io.BytesIO()
            pa.parquet.write_table(parse(block), buffer, use_dictionary=["run_id"])
            target.with_suffix(".moved").write_bytes(buffer.getbuffer())
    for file in files.values():
        file.unlink()
    for file in folder.glob("*.moved"):
        file.rename(file.with_suffix(".parquet"))


def _file(folder: Path, position: int, block: Block) -> Path:
    return folder / f"{position:05d}-{block.name}.parquet"


def _cut(runs: pd.DataFrame, keys: list[str], made_by: list[Any]) -> list[Block]:
    """The runs that have a folder, in blocks; a run whose id hashes to 0 begins one. `made_by` is
    what else changes their bytes."""
    blocks: list[tuple[list[int], list[Any]]] = []
    columns = [runs[key].astype(object).where(runs[key].notna(), None) for key in keys]
    for position, (run_id, signature, *values) in enumerate(
        zip(runs["run_id"], runs["signature"], *columns, strict=True)
    ):
        if not isinstance(signature, list):
            continue  # planned, without a folder
        if not blocks or zlib.crc32(run_id.encode()) % RUNS_PER_BLOCK == 0:
            blocks.append(([], []))
        blocks[-1][0].append(position)
        blocks[-1][1].append([run_id, signature[1], values])
    return [Block(_digest([made_by, made_of]), positions) for positions, made_of in blocks]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _parse(block: Block, runs: pd.DataFrame, owners: pa.Table, measured: list[str]) -> pa.Table:
    """What the records of a block `measured`, with their runs' row of `owners`; its rows and
    problems are filled in."""
    contents = []
    expected = runs["records"].iloc[block.runs].tolist()
    for i, folder in enumerate(runs["folder"].iloc[block.runs]):
        try:
            content = (Path(folder) / "metrics.jsonl").read_bytes()
        except OSError as error:
            content = b""
            if not isinstance(error, FileNotFoundError) or expected[i] > 0:
                block.problems[i] = f"cannot be read ({error.strerror})"
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            block.problems[i] = "ends with a torn line, which is passed over"
        contents.append(whole)
    block.rows = [content.count(b"\n") for content in contents]
    for i, records in enumerate(expected):  # of a finished run, which must have them all
        if records == records and records != block.rows[i]:
            block.problems[i] = f"is damaged: {block.rows[i]} of {records:.0f} records"
            block.damaged.append(i)
            contents[i], block.rows[i] = b"", 0
    try:
        table = _decode(b"".join(contents), block.rows)
    except pa.ArrowInvalid:
        table = _decode_each(block, contents)
    named = owners.take(np.repeat(block.runs, block.rows))
    for name in measured:
        named = named.append_column(name, table[name])
    return named


def _decode(content: bytes, rows: list[int]) -> pa.Table:
    """Records of whole lines of JSON, `rows` of each run; ArrowInvalid unless each line is one
    and each run's are those of epochs 0, 1, 2 and so on."""
    if not sum(rows):
        return SCHEMA.empty_table()
    # A run alone is one chunk, so that an error names the line of its log; more go in parallel.
    chunks = pa.json.ReadOptions(block_size=max(1 << 20, len(content) // len(rows)))
    options = pa.json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
    table = pa.json.read_json(pa.BufferReader(content), chunks, options)
    if table.num_rows != sum(rows) or table["epoch"].null_count:
        raise pa.ArrowInvalid("a line is no record")
    if not np.array_equal(table["epoch"], np.concatenate([np.arange(n) for n in rows])):
        raise pa.ArrowInvalid("its epochs are not 0, 1, 2, ...")
    return table


def _decode_each(block: Block, contents: list[bytes]) -> pa.Table:
    """Like `_decode`, run by run, leaving out the runs that are damaged."""
    tables = []
    for i, content in enumerate(contents):
        try:
            tables.append(_decode(content, [block.rows[i]]))
        except pa.ArrowInvalid as error:
            tables.append(SCHEMA.empty_table())
            reason = str(error).partition("\n")[0]
            block.problems[i] = f"is damaged: {reason}"
            block.damaged.append(i)
            block.rows[i] = 0
    return pa.concat_tables(tables)

"""All records of all runs: epochs.parquet and epochs.csv, brought up to date block by block.

A block holds some dozen neighbouring runs of the sorted table. Where a block ends depends on the
run ids alone, so that a run that comes or goes changes one block, and a block is named after what
it was made of. What is unchanged is neither parsed nor formatted again: its parquet file stays,
and its lines are copied from the old epochs.csv.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet

from randlabels import metrics
from randlabels.rundir import read_json, write_atomic

from .formats import as_csv

RUNS_PER_BLOCK = 64
"""On average."""

CHUNK = 16 << 20
"""Bytes copied at once."""

SCHEMA = pa.schema([(key, pa.int64() if key == "epoch" else pa.float64()) for key in metrics.KEYS])


@dataclass
class Block:
    """Neighbouring runs.

    name: digest of the runs, their keys and the state of their files.
    runs: their positions in the table of runs.
    rows: number of records of each.
    problems: sentences by position among them; `damaged` are those whose records are unusable.
    """

    name: str
    runs: list[int]
    rows: list[int] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)
    damaged: list[int] = field(default_factory=list)


@dataclass
class Epochs:
    """The records of a table of runs, on disk.

    folder: of the parquet files, one per block, in order.
    problems: sentences by position in the table; `damaged` are runs without usable records.
    """

    folder: Path
    blocks: list[Block]
    problems: dict[int, str]
    damaged: set[int]

    def read(self, *keys: str) -> pd.DataFrame:
        """Columns `run` (position in the table), `epoch` and the metrics `keys`."""
        run = np.concatenate(
            [np.empty(0, dtype=int), *(np.repeat(block.runs, block.rows) for block in self.blocks)]
        )
        columns = ["epoch", *keys]
        tables = [
            pa.parquet.read_table(_file(self.folder, i, block), columns=columns)
            for i, block in enumerate(self.blocks)
        ]
        table = pa.concat_tables(tables) if tables else SCHEMA.empty_table().select(columns)
        return table.to_pandas().assign(run=run)

    @classmethod
    def update(cls, out: Path, runs: pd.DataFrame, keys: list[str]) -> Epochs:
        """Bring `<out>/epochs.parquet/` and `<out>/epochs.csv` up to date with `runs`, whose
        sorted rows have the columns run_id, folder, signature and `keys`."""
        folder, index_file = out / "epochs.parquet", out / ".cache" / "epochs.json"
        folder.mkdir(parents=True, exist_ok=True)
        index_file.parent.mkdir(exist_ok=True)
        index = read_json(index_file) or {}
        known = index.get("blocks", {})
        for file in folder.glob("*.moved"):  # of a call that was interrupted
            file.unlink()
        files = {file.stem.partition("-")[2]: file for file in folder.glob("*.parquet")}
        blocks = _cut(runs, keys)
        fresh: dict[str, pa.Table] = {}
        for i, block in enumerate(blocks):
            target = _file(folder, i, block)
            if block.name in known and block.name in files:
                block.rows, problems, block.damaged = known[block.name]
                block.problems = {int(k): v for k, v in problems.items()}
                if (file := files.pop(block.name)) != target:
                    file.rename(target.with_suffix(".moved"))
            else:
                fresh[block.name] = table = _parse(block, runs, keys)
                buffer = io.BytesIO()
                pa.parquet.write_table(table, buffer, use_dictionary=["run_id"])
                target.with_suffix(".moved").write_bytes(buffer.getbuffer())
        for file in files.values():
            file.unlink()
        for file in folder.glob("*.moved"):
            file.rename(file.with_suffix(".parquet"))
        places = _write_csv(out / "epochs.csv", keys, folder, blocks, fresh, index)
        content = {
            "blocks": {b.name: [b.rows, b.problems, b.damaged] for b in blocks},
            "places": places,
            "csv": _status(out / "epochs.csv"),
        }
        write_atomic(index_file, json.dumps(content))
        return cls(
            folder,
            blocks,
            {b.runs[i]: text for b in blocks for i, text in b.problems.items()},
            {b.runs[i] for b in blocks for i in b.damaged},
        )


def _file(folder: Path, position: int, block: Block) -> Path:
    return folder / f"{position:05d}-{block.name}.parquet"


def _cut(runs: pd.DataFrame, keys: list[str]) -> list[Block]:
    """The runs that have a folder, in blocks; a run whose id hashes to 0 begins one."""
    blocks: list[tuple[list[int], list[Any]]] = []
    columns = [runs[key].astype(object).where(runs[key].notna(), None) for key in keys]
    for position, (run_id, signature, *values) in enumerate(
        zip(runs["run_id"], runs["signature"], *columns, strict=True)
    ):
        if not isinstance(signature, list) or signature[1] is None:
            continue  # no metrics.jsonl
        if not blocks or zlib.crc32(run_id.encode()) % RUNS_PER_BLOCK == 0:
            blocks.append(([], []))
        blocks[-1][0].append(position)
        blocks[-1][1].append([run_id, signature[1], values])
    return [
        Block(hashlib.sha256(json.dumps([keys, made_of]).encode()).hexdigest()[:16], positions)
        for positions, made_of in blocks
    ]


def _parse(block: Block, runs: pd.DataFrame, keys: list[str]) -> pa.Table:
    """The records of a block with the keys of their runs; its rows and problems are filled in."""
    contents = []
    files = [Path(str(runs.at[position, "folder"])) / "metrics.jsonl" for position in block.runs]
    for i, file in enumerate(files):
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            block.problems[i] = f"{file}: the torn last line is passed over"
        contents.append(whole)
    block.rows = [content.count(b"\n") for content in contents]
    try:
        records = _decode(b"".join(contents), sum(block.rows))
    except pa.ArrowInvalid:
        records = _decode_each(block, files, contents)
    owners = runs[["run_id", *keys]].iloc[np.repeat(block.runs, block.rows)]
    table = pa.Table.from_pandas(owners, preserve_index=False).replace_schema_metadata()
    for name in metrics.KEYS:
        table = table.append_column(name, records[name])
    return table


def _decode(content: bytes, lines: int) -> pa.Table:
    """Records of whole lines of JSON; ArrowInvalid unless each line is one."""
    if not lines:
        return SCHEMA.empty_table()
    options = pa.json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
    table = pa.json.read_json(
        io.BytesIO(content), pa.json.ReadOptions(block_size=max(1 << 20, len(content))), options
    )
    if table.num_rows != lines or table["epoch"].null_count:
        raise pa.ArrowInvalid("a line is no record")
    return table


def _decode_each(block: Block, files: list[Path], contents: list[bytes]) -> pa.Table:
    """Like `_decode`, run by run, leaving out the runs that are damaged."""
    tables = []
    for i, content in enumerate(contents):
        try:
            tables.append(_decode(content, block.rows[i]))
        except pa.ArrowInvalid as error:
            tables.append(SCHEMA.empty_table())
            block.rows[i] = 0
            block.damaged.append(i)
            reason = str(error).partition("\n")[0]
            block.problems[i] = f"{files[i]} is damaged ({reason})"
    return pa.concat_tables(tables)


def _write_csv(
    path: Path,
    keys: list[str],
    folder: Path,
    blocks: list[Block],
    fresh: dict[str, pa.Table],
    index: dict[str, Any],
) -> dict[str, tuple[int, int]]:
    """Write epochs.csv; the place (offset, length) of each block in it.

    What an unchanged old file has of an unchanged block is copied.
    """
    old = index.get("places", {}) if index.get("csv") == _status(path) else {}
    if list(old) == [block.name for block in blocks] and old:
        return old
    header = as_csv(pa.table({name: [] for name in ["run_id", *keys, *metrics.KEYS]}))
    places: dict[str, tuple[int, int]] = {}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as new, open(path if old else os.devnull, "rb") as source:
        new.write(header)
        end = len(header)
        for start, length, names in _stretches(blocks, old):
            if start is None:
                (name,) = names
                position = next(i for i, block in enumerate(blocks) if block.name == name)
                table = fresh.get(name)
                if table is None:
                    table = pa.parquet.read_table(_file(folder, position, blocks[position]))
                text = as_csv(table, header=False)
                new.write(text)
                places[name], end = (end, len(text)), end + len(text)
            else:
                _copy(source, start, length, new)
                for name in names:
                    places[name], end = (end, old[name][1]), end + old[name][1]
    os.replace(temporary, path)
    return places


def _copy(source: BinaryIO, start: int, length: int, new: BinaryIO) -> None:
    """Append a part of a file to another, by the kernel where it can."""
    new.flush()
    copied = 0
    with contextlib.suppress(OSError, AttributeError):
        while copied < length:
            place = start + copied
            copied += os.copy_file_range(source.fileno(), new.fileno(), length - copied, place)
    new.seek(0, os.SEEK_END)
    source.seek(start + copied)
    while copied < length:
        copied += new.write(source.read(min(CHUNK, length - copied)))


def _stretches(
    blocks: list[Block], old: dict[str, tuple[int, int]]
) -> Iterator[tuple[int | None, int, list[str]]]:
    """Blocks that stand side by side in the old file too, as (offset, length, names); a block
    that it lacks comes alone, with offset None."""
    start, length, names = 0, 0, list[str]()
    for block in blocks:
        place = old.get(block.name)
        if names and (place is None or place[0] != start + length):
            yield start, length, names
            names = []
        if place is None:
            yield None, 0, [block.name]
        elif names:
            length, names = length + place[1], [*names, block.name]
        else:
            start, length, names = place[0], place[1], [block.name]
    if names:
        yield start, length, names


def _status(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return [status.st_mtime_ns, status.st_size]

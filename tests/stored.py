"""The runs behind stored numbers: their archive, and the tables that it gives.

    python -m tests.stored runs/double_descent-mnist runs/course-flatness

puts the runs of these sweeps into `analysis/results/runs.tar.xz`, in the place of earlier runs of
the same sweeps. Weights and the times of epochs are left out. It writes the `runs.csv` of each
sweep. In `paper.csv`, `seed.csv` and `noise.csv` it writes the rows of `analysis.compare` that have
runs; other rows stay as they are.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import pandas as pd

from analysis import compare, published
from analysis.formats import write_csv
from analysis.runs import read
from analysis.tables import runs
from randlabels.store.files import write_atomic
from randlabels.store.rundir import RunDir

from .golden import KEPT

RESULTS = Path(published.__file__).parent / "results"
ARCHIVE, TOP = "runs.tar.xz", "published-runs"
TIMES = ["seconds", "images_per_second"]  # of an epoch; they are most of the archive


def main(sweeps: list[Path], results: Path = RESULTS) -> None:
    """Add the runs of `sweeps`, and write the tables of the whole archive again."""
    with tempfile.TemporaryDirectory() as temporary:
        stored = unpack(results, Path(temporary))
        for sweep in sweeps:
            finished = [RunDir(file.parent) for file in sorted(sweep.glob("*/done.json"))]
            if not finished:
                sys.exit(f"Error: {sweep} has no finished runs; give the folder of a sweep")
            shutil.rmtree(stored / sweep.name, ignore_errors=True)
            for run in finished:
                keep(run, RunDir(stored / sweep.name / run.run_id))
        made = tables(stored, results)
        pack(stored, results / ARCHIVE)
        for file, table in made.items():
            write_csv(table, results / file)


def unpack(results: Path, folder: Path) -> Path:
    """Return the folder of the sweeps of the archive, below `folder`."""
    if (results / ARCHIVE).exists():
        with tarfile.open(results / ARCHIVE) as archive:
            archive.extractall(folder, filter="data")
    return folder / TOP


def keep(run: RunDir, copy: RunDir) -> None:
    """Copy what a finished run wrote, except for its weights and its log."""
    copy.path.mkdir(parents=True)
    for name in KEPT:
        if (run.path / name).exists():
            shutil.copyfile(run.path / name, copy.path / name)
    records = map(json.loads, run.metrics.read_text().splitlines())
    lines = [json.dumps(record | dict.fromkeys(TIMES)) + "\n" for record in records]
    copy.metrics.write_text("".join(lines))


def pack(stored: Path, file: Path) -> None:
    """Write the archive to `file`; the same runs give the same bytes."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz", preset=9) as archive:
        for path in sorted(path for path in stored.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(str(Path(TOP) / path.relative_to(stored)))
            entry.size = path.stat().st_size
            archive.addfile(entry, io.BytesIO(path.read_bytes()))
    write_atomic(file, content.getbuffer())


def tables(stored: Path, results: Path) -> dict[str, pd.DataFrame]:
    """Return each table by its file in `results`."""
    made = {f"{sweep.name}.csv": runs(read(sweep)) for sweep in sorted(stored.iterdir())}
    found = read(stored)
    for target in published.TARGETS:
        table = compare.compare(found, published.read(target))
        made[f"{target}.csv"] = replace_rows(results / f"{target}.csv", table)
    return made


def replace_rows(file: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `table` that have runs, and the stored ones of other numbers."""
    number = ["source", "row", "metric", "epoch"]
    texts = dict.fromkeys(["epoch", *compare.MADE_WITH], str)
    covered = table[table["verdict"] != "missing"].set_index(number)
    stored = pd.read_csv(file, dtype=texts).set_index(number)
    ours = pd.concat([covered, stored[~stored.index.isin(covered.index)]])
    known = table[[*number, "published", "chosen", "note"]]
    return known.merge(ours.drop(columns=["published", "chosen", "note"]), on=number)[table.columns]


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])

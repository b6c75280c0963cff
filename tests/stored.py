"""The runs behind stored numbers: their archive, and the tables that it gives.

    python -m tests.stored runs/double_descent-mnist runs/course-flatness

puts the runs of these sweeps into `analysis/results/runs.tar.xz`, in the place of earlier runs of
the same sweeps. Weights and the times of epochs are left out. It writes the `runs.csv` of each
sweep. In `paper.csv`, `seed.csv` and `noise.csv` it writes the rows of `analysis.compare` that have
runs; other rows stay as they are.
"""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import pandas as pd

from analysis import compare, published
from analysis.collect import collect
from analysis.formats import write_csv
from randlabels.store.rundir import RunDir

from .golden import KEPT

RESULTS = Path(published.__file__).parent / "results"
ARCHIVE, TOP = RESULTS / "runs.tar.xz", "published-runs"
TIMES = ["seconds", "images_per_second"]  # of an epoch; they are most of the archive


def main(sweeps: list[Path]) -> None:
    """Add the runs of `sweeps`, and write the tables of the whole archive again."""
    with tempfile.TemporaryDirectory() as temporary:
        runs = unpack(Path(temporary))
        for sweep in sweeps:
            shutil.rmtree(runs / sweep.name, ignore_errors=True)
            for file in sorted(sweep.glob("*/done.json")):
                keep(RunDir(file.parent), RunDir(runs / sweep.name / file.parent.name))
        pack(runs)
        for file, table in tables(runs, Path(temporary)).items():
            write_csv(table, RESULTS / file)


def unpack(folder: Path) -> Path:
    """Return the folder of the sweeps of the archive, below `folder`."""
    if ARCHIVE.exists():
        with tarfile.open(ARCHIVE) as archive:
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


def pack(runs: Path) -> None:
    """Write the archive; the same runs give the same bytes."""
    with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
        for file in sorted(path for path in runs.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(str(Path(TOP) / file.relative_to(runs)))
            entry.size = file.stat().st_size
            with file.open("rb") as content:
                archive.addfile(entry, content)


def tables(runs: Path, temporary: Path) -> dict[str, pd.DataFrame]:
    """Return each table by its file in `analysis/results`."""
    found = {}
    for sweep in sorted(runs.iterdir()):
        collect(sweep, temporary)
        found[f"{sweep.name}.csv"] = pd.read_csv(temporary / "runs.csv")
    all_runs = collect(runs, temporary)[0]
    for target in published.TARGETS:
        table = compare.compare(all_runs, published.read(target))
        found[f"{target}.csv"] = replace_rows(RESULTS / f"{target}.csv", table)
    return found


def replace_rows(file: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return `table` without missing runs; its numbers without runs have the stored ones."""
    number = ["source", "row", "metric", "epoch"]
    texts = dict.fromkeys(["epoch", *compare.MADE_WITH], str)
    covered = table[table["verdict"] != "missing"].set_index(number)
    ours = covered.combine_first(pd.read_csv(file, dtype=texts).set_index(number))
    known = table[[*number, "published", "chosen", "note"]]
    return known.merge(ours.drop(columns=["published", "chosen", "note"]), on=number)[table.columns]


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])

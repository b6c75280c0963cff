"""Collecting ten thousand runs: the first time, after one run changed, and file by file.

    python -m tests.benchmarks.collect [--runs 10000] [--epochs 300] [--keep DIR]

Synthetic run folders of the real layout; the baseline reads each run's JSON lines with pandas and
concatenates, which is all it does. Each arm is a process of its own; its peak memory is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from randlabels.config import parse
from randlabels.console import print_table
from randlabels.store import metrics, rundir

SEEDS = 5


def write_runs(root: Path, runs: int, epochs: int) -> None:
    """`runs` finished runs in a grid of learning rates, corruption levels and seeds."""
    rng = np.random.default_rng(0)
    values = rng.random((epochs, len(metrics.KEYS)))
    lines = []
    for epoch in range(epochs):
        record = dict(zip(metrics.KEYS, values[epoch].tolist(), strict=True)) | {"epoch": epoch}
        lines.append(metrics.encode(record) + "\n")
    content = "".join(lines)
    result = {key: 0.5 for key in metrics.MEASURED}
    for i in range(runs):
        cell, seed = divmod(i, SEEDS)
        rate, level = divmod(cell, 10)
        config = parse(
            {
                "corrupt": level / 10,
                "seed": seed,
                "epochs": epochs,
                "optimizer": {"lr": 0.01 + rate},
            }
        )
        run = rundir.RunDir(root / config.run_id)
        run.path.mkdir(parents=True)
        run.config.write_text(yaml.dump(config.tree(), Dumper=yaml.CSafeDumper))
        run.metrics.write_text(content)
        done = {"config_hash": config.hash, "state": "done", "parameters": 1, "seconds": 1.0}
        done["epochs"] = epochs
        run.done.write_text(json.dumps({**done, "final": result, "best": result}))
        changed = {"classes": 10, "share_changed": 0.9 * config.corrupt}
        run.corruption.write_text(json.dumps(changed))
        run.environment.write_text(json.dumps({"schema": rundir.SCHEMA, "device": "cpu"}))


def baseline(root: Path) -> None:
    """The plain way: one data frame a file, concatenated."""
    import pandas as pd

    frames = []
    for folder in sorted(root.iterdir()):
        if (folder / "done.json").is_file():
            frame = pd.read_json(folder / "metrics.jsonl", lines=True)
            config = yaml.safe_load((folder / "config.yaml").read_text())
            frames.append(frame.assign(run_id=folder.name, corrupt=config["corrupt"]))
    pd.concat(frames).to_csv(root / "baseline.csv", index=False)


def timed(*command: str) -> tuple[float, float]:
    """Seconds, and GiB of memory at the peak, of a process."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - started, used.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--baseline", metavar="DIR", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.baseline:
        baseline(options.baseline)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        write_runs(root, options.runs, options.epochs)
        first = timed("-m", "analysis.collect", str(root))
        changed = next(root.glob("*/metrics.jsonl"))
        changed.write_text(changed.read_text().replace("0.1", "0.2"))
        second = timed("-m", "analysis.collect", str(root))
        table = root / "summary" / "epochs.csv"
        started = time.perf_counter()
        shutil.copyfile(table, root / "copy.csv")
        copying = time.perf_counter() - started
        size = table.stat().st_size / 2**20
        plain = timed("-m", "tests.benchmarks.collect", "--baseline", str(root))
    arms = {
        "first collection": first,
        "after one run changed": second,
        "pandas file by file": plain,
    }
    rows = [
        [arm, f"{seconds:.1f}", f"{plain[0] / seconds:.1f}", f"{memory:.2f}"]
        for arm, (seconds, memory) in arms.items()
    ]
    rows.insert(2, [f"copying epochs.csv ({size:,.0f} MiB)", f"{copying:.1f}", "-", "-"])
    title = f"{options.runs:,} runs x {options.epochs} epochs"
    print_table(title, ["arm", "seconds", "times faster", "peak GiB"], rows)


if __name__ == "__main__":
    main()

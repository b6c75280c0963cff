"""Collect ten thousand runs, and read them file by file.

    python -m tests.benchmarks.collect [--runs 10000] [--epochs 300] [--alone]

Synthetic run folders of the real layout. The baseline only reads each run's JSON lines with pandas
and concatenates. Each arm is a process, whose peak memory is printed.
"""

from __future__ import annotations

import argparse
import json
import os
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
    """Write `runs` finished runs in a grid of learning rates, corruption levels and seeds."""
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
    """Read each file into a data frame and concatenate."""
    import pandas as pd

    frames = []
    for folder in sorted(root.iterdir()):
        if (folder / "done.json").is_file():
            frame = pd.read_json(folder / "metrics.jsonl", lines=True)
            config = yaml.safe_load((folder / "config.yaml").read_text())
            frames.append(frame.assign(run_id=folder.name, corrupt=config["corrupt"]))
    pd.concat(frames).to_csv(root / "baseline.csv", index=False)


def measure(*command: str) -> tuple[float, float, float]:
    """Return the seconds, processor seconds and peak memory in GiB of a command."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds = time.perf_counter() - started
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--alone", action="store_true", help="without the baseline")
    parser.add_argument("--baseline", metavar="DIR", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.baseline:
        baseline(options.baseline)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        write_runs(root, options.runs, options.epochs)
        arms = {"analysis.collect": measure("-m", "analysis.collect", str(root))}
        arms["analysis.status"] = measure("-m", "analysis.status", str(root))
        if not options.alone:
            plain = measure("-m", "tests.benchmarks.collect", "--baseline", str(root))
            arms["pandas file by file"] = plain
    rows = [[arm, *(f"{number:.1f}" for number in numbers)] for arm, numbers in arms.items()]
    title = f"{options.runs:,} runs x {options.epochs} epochs"
    print_table(title, ["arm", "seconds", "processor seconds", "peak GiB"], rows)


if __name__ == "__main__":
    main()

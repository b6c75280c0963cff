"""Memory and open files that a thousand runs leave in the process that launched them.

    python -m tests.benchmarks.load [--runs 1000] [--launcher packed]

The runs are tiny, on the embedded digits. Memory and open files are read when a tenth of the runs
is done and again at the end: the difference is what the process keeps for each run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--launcher", default="packed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "randlabels.run", "-m", "dataset=digits", "model=mlp"]
        command += ["model.hidden=[8]", "dataset.train_size=64", "dataset.test_size=64", "epochs=2"]
        command += [f"seed=range(0,{options.runs})", f"hydra/launcher={options.launcher}"]
        log = open(Path(folder) / "log", "w")
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        runs = Path(folder) / "runs" / "default"
        first = last = None
        while process.poll() is None:
            done = sum(1 for _ in runs.glob("*/done.json")) if runs.is_dir() else 0
            if done >= options.runs / 10:
                last = read_usage(process.pid) or last
                first = first or last
            time.sleep(0.5)
        seconds = time.perf_counter() - started
        done = sum(1 for _ in runs.glob("*/done.json"))
        log.close()
    assert first is not None and last is not None, "too few runs to compare"
    print(f"{options.launcher}: {done} of {options.runs} runs done, exit code {process.returncode}")
    print(f"{seconds:.0f} s, {1000 * seconds / options.runs:.0f} ms a run")
    print(
        f"memory {first[0]:.0f} MB after a tenth, {last[0]:.0f} MB at the end: "
        f"{last[0] - first[0]:+.1f} MB"
    )
    print(f"open files {first[1]} and {last[1]}")


def read_usage(pid: int) -> tuple[float, int] | None:
    """Return resident memory (MB) and number of open files of a process; None once it ended."""
    try:
        process = psutil.Process(pid)
        return process.memory_info().rss / 1e6, process.num_fds()
    except psutil.Error:
        return None


if __name__ == "__main__":
    main()

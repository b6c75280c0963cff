"""Many tiny runs: what they cost the process that launched them, and what disturbs them.

    python -m tests.benchmarks.load [--runs 1000] [--launcher packed] [--together 20]

The runs are tiny, on the embedded digits. Memory and open files are read when a tenth of the runs
is done, and before the last one is: the difference is what the process keeps for each run. With
`--together N`, two launches at once share N of their 2 N runs each, while ten processes at a time
collect the tables.
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

ROOT = Path(__file__).parent.parent.parent

TINY = "dataset=digits model=linear dataset.train_size=64 dataset.test_size=64 epochs=1".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--launcher", default="packed")
    parser.add_argument("--together", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.together:
            disturb(options.together, options.launcher, Path(folder))
        else:
            measure(options.runs, options.launcher, Path(folder))


def measure(count: int, launcher: str, folder: Path) -> None:
    """Print time, memory and open files of one launch."""
    started = time.perf_counter()
    process = start("randlabels.run", *sweep(0, count, launcher), cwd=folder)
    first = last = None
    peak = 0.0
    while process.poll() is None:
        if usage := read_usage(process.pid):
            peak = max(peak, usage[0])
            if count / 10 <= len(finished(folder)) < count:
                first, last = first or usage, usage
        time.sleep(0.5)
    seconds = time.perf_counter() - started
    assert first is not None and last is not None, "too few runs to compare"
    done = len(finished(folder))
    print(f"{launcher}: {done} of {count} runs done, exit code {process.returncode}")
    print(f"{seconds:.0f} s, {1000 * seconds / count:.0f} ms a run; load {os.getloadavg()[1]:.0f}")
    print(
        f"memory {first[0]:.0f} MB after a tenth, {last[0]:.0f} MB before the last run: "
        f"{last[0] - first[0]:+.1f} MB; peak {peak:.0f} MB"
    )
    print(f"open files {first[1]} and {last[1]}")


def disturb(count: int, launcher: str, folder: Path) -> None:
    """Print how two overlapping launches and all collections meanwhile have ended."""
    launches = [
        start("randlabels.run", *sweep(first, first + 2 * count, launcher), cwd=folder)
        for first in (0, count)
    ]
    codes = []
    while any(process.poll() is None for process in launches):
        if finished(folder):
            readers = [collect(folder, f"out{i}") for i in range(10)]
            codes += [reader.wait() for reader in readers]
        time.sleep(0.5)
    assert not collect(folder, "last").wait()
    rows = (folder / "last" / "runs.csv").read_text().splitlines()[1:]
    print(f"{launcher}: two launches, exit codes {[process.returncode for process in launches]}")
    print(f"{sum(',done,' in row for row in rows)} of {3 * count} runs done, {len(rows)} rows")
    print(f"{len(codes)} collections meanwhile, {sum(map(bool, codes))} of them failed")


def sweep(first: int, after: int, launcher: str) -> list[str]:
    return ["-m", *TINY, f"seed=range({first},{after})", f"hydra/launcher={launcher}"]


def collect(folder: Path, out: str) -> subprocess.Popen[bytes]:
    return start("analysis.collect", "runs/default", "--out", out, cwd=folder)


def start(module: str, *arguments: str, cwd: Path) -> subprocess.Popen[bytes]:
    """Start a module; its output is appended to the file `log`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *arguments]
    with open(cwd / "log", "a") as log:
        return subprocess.Popen(command, cwd=cwd, env=environment, stdout=log, stderr=log)


def finished(folder: Path) -> list[Path]:
    return list((folder / "runs" / "default").glob("*/done.json"))


def read_usage(pid: int) -> tuple[float, int] | None:
    """Return resident memory (MB) and number of open files of a process; None once it ended."""
    try:
        process = psutil.Process(pid)
        memory = process.memory_info().rss / 1e6  # 0 while it waits to be reaped
        return (memory, process.num_fds()) if memory else None
    except psutil.Error:
        return None


if __name__ == "__main__":
    main()

"""The exact kernel fit on MNIST: one label set, then 55 in one process.

    python -m tests.benchmarks.kernel [images]

Needs MNIST under RANDLABELS_DATA. 60,000 images take about 10 GiB and a quarter of an hour. Each
process is timed from its start to its end. The floor is n³/3 operations at the rate of torch's own
float32 product `a @ b.T`, measured before and after.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from randlabels.config import Config, parse
from randlabels.execute import execute
from randlabels.store.rundir import read_json

LEVELS = [level / 10 for level in range(11)]
SEEDS = range(1, 6)


@dataclass(frozen=True)
class Result:
    """Peak GiB, largest relative residual, and the first set's test error of one process."""

    memory: float
    residual: float
    error: float


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000
    sets = [(level, seed) for level in LEVELS for seed in SEEDS]
    before = measure_rate()
    with tempfile.TemporaryDirectory() as out:
        one = time_process("one label set", n, out, sets[:1])
        speed = max(before, measure_rate())
        floor = n**3 / 3 / speed
        ratio = one / floor
        print(f"  {ratio:.2f} times the floor, {floor:.1f} s at {speed / 1e9:.0f} GFLOP/s")
        many = time_process(f"{len(sets)} label sets", n, f"{out}/many", sets)
        print(f"  {many / one:.2f} times one set")


def time_process(title: str, n: int, out: str, sets: list[tuple[float, int]]) -> float:
    """Solve (level, seed) label sets in a new process; print its results, return its seconds."""
    started = time.perf_counter()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        result = pool.submit(solve, n, out, sets).result()
    seconds = time.perf_counter() - started
    print(
        f"{title}, {n:,} images: {seconds:.1f} s, {result.memory:.2f} GiB, test error "
        f"{result.error:.2%}, relative residual at most {result.residual:.1e}",
        flush=True,
    )
    return seconds


def solve(n: int, out: str, sets: list[tuple[float, int]]) -> Result:
    configs = [configure(n, out, level, seed) for level, seed in sets]
    execute(configs)
    results = [read_json(Path(config.run.done)) or {} for config in configs]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    residual = max(result["solution"]["relative_residual"] for result in results)
    return Result(memory, residual, 1 - results[0]["final"]["test_acc"])


def configure(n: int, out: str, level: float, seed: int) -> Config:
    return parse(
        {
            "dataset": {"name": "mnist", "train_size": None if n == 60_000 else n},
            "model": {"name": "kernel"},
            "preprocess": {"name": "scale"},
            "corrupt": level,
            "corruption": {"seed": seed},
            "out": out,
        }
    )


def measure_rate() -> float:
    """Return the FLOP/s of the fastest of several float32 products (2000, 4000)·(4000, 2000)."""
    a, b = torch.randn(2000, 4000), torch.randn(2000, 4000)
    a @ b.T
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        a @ b.T
        seconds.append(time.perf_counter() - started)
    return 2 * 2000 * 2000 * 4000 / min(seconds)


if __name__ == "__main__":
    main()

"""The exact kernel fit on MNIST: one run, 55 sets of labels in one process, a further process.

    python -m tests.benchmarks.kernel [images]

Needs MNIST under RANDLABELS_DATA, and for 60,000 images 12 GiB of memory, 8 GB of disk and a
quarter of an hour. Three processes, one after the other, are timed from their start to their end:
one level of corruption, which also writes the factorisation to a file, in a time that is taken
off; one more level, which finds that file; and eleven levels of five seeds each, without it. The
floor of the first is n³/3 over the float32 rate of matrix products, measured here: torch's own
`a @ b.T`, and the faster route that the fit takes.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from randlabels.config import Config, parse
from randlabels.execute import execute_exact
from randlabels.kernels.cholesky import Triangle
from randlabels.kernels.products import product
from randlabels.store.rundir import read_json

LEVELS = [level / 10 for level in range(11)]
SEEDS = range(1, 6)


@dataclass(frozen=True)
class Process:
    """What one process took: seconds in all and in writing the factorisation, GiB at its peak;
    the largest relative residual, and the test error of its first set of labels."""

    seconds: float
    saving: float
    memory: float
    residual: float
    error: float


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000
    a, b = torch.randn(2000, 4000), torch.randn(2000, 4000)
    rates = {"torch's a @ b.T": rate(lambda: a @ b.T), "oneDNN": rate(lambda: product(a, b))}
    sets = [(level, seed) for level in LEVELS for seed in SEEDS]
    with tempfile.TemporaryDirectory() as out:
        one = process("one set of labels", n, out, [(0.0, 0)], cache=True)
        seconds = one.seconds - one.saving
        print(f"  {seconds:.1f} s without {one.saving:.1f} s of writing the factorisation")
        for name, speed in rates.items():
            floor = n**3 / 3 / speed
            times = seconds / floor
            print(
                f"  {times:.2f} times the floor of {name}: {floor:.1f} s, {speed / 1e9:.0f} GFLOP/s"
            )
        further = process("a further process", n, out, [(0.55, 1)], cache=True)
        print(f"  {further.seconds / seconds:.3f} times one set")
        many = process(f"{len(sets)} sets of labels", n, out, sets, cache=False)
        print(f"  {many.seconds / seconds:.2f} times one set")


def process(title: str, n: int, out: str, sets: list[tuple[float, int]], *, cache: bool) -> Process:
    """Solve (level, seed) sets of n images' labels in a process of its own, and print its time."""
    started = time.perf_counter()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        saving, memory, residual, error = pool.submit(solve, n, out, sets, cache).result()
    took = Process(time.perf_counter() - started, saving, memory, residual, error)
    print(
        f"{title}, {n:,} images: {took.seconds:.1f} s, {took.memory:.2f} GiB, test error "
        f"{took.error:.2%}, relative residual at most {took.residual:.1e}",
        flush=True,
    )
    return took


def solve(
    n: int, out: str, sets: list[tuple[float, int]], cache: bool
) -> tuple[float, float, float, float]:
    """What `Process` holds, but for the seconds."""
    configs = [configured(n, out, level, seed, cache) for level, seed in sets]
    saving = [0.0]
    save = Triangle.save

    def timed(factor: Triangle, file: Path) -> None:
        started = time.perf_counter()
        save(factor, file)
        saving.append(time.perf_counter() - started)

    Triangle.save = timed  # type: ignore[method-assign]
    execute_exact(configs)
    results = [read_json(Path(config.run.done)) or {} for config in configs]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    residual = max(result["solution"]["relative_residual"] for result in results)
    return sum(saving), memory, residual, 1 - results[0]["final"]["test_acc"]


def configured(n: int, out: str, level: float, seed: int, cache: bool) -> Config:
    return parse(
        {
            "dataset": {"name": "mnist", "train_size": None if n == 60_000 else n},
            "model": {"name": "kernel", "cache": cache},
            "preprocess": {"name": "scale"},
            "corrupt": level,
            "corruption": {"seed": seed},
            "out": out,
        }
    )


def rate(multiply: Callable[[], torch.Tensor]) -> float:
    """FLOP/s of the best of several products of (2000, 4000) and (4000, 2000)."""
    multiply()
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - started)
    return 2 * 2000 * 2000 * 4000 / best


if __name__ == "__main__":
    main()

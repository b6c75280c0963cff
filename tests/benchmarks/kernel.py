"""The exact kernel fit on MNIST: time against the floor that its matrix products set, and memory.

    python -m tests.benchmarks.kernel [images]

Needs MNIST under RANDLABELS_DATA. The floor is n³/3 over the float32 rate of matrix products,
measured in the same process: torch's own `a @ b.T`, and the faster route that the fit takes.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from randlabels.config import parse
from randlabels.execute import execute
from randlabels.kernels.cholesky import product
from randlabels.rundir import read_json


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000
    torch.set_num_threads(torch.get_num_threads())
    a, b = torch.randn(2000, 4000), torch.randn(2000, 4000)
    rates = {"torch's a @ b.T": rate(lambda: a @ b.T), "oneDNN": rate(lambda: product(a, b))}
    with tempfile.TemporaryDirectory() as out:
        config = parse(
            {
                "dataset": {"name": "mnist", "train_size": None if n == 60_000 else n},
                "model": {"name": "kernel"},
                "preprocess": {"name": "scale"},
                "out": out,
            }
        )
        started = time.perf_counter()
        execute(config)
        seconds = time.perf_counter() - started
        result = read_json(Path(config.run.done)) or {}
    print(f"test error {1 - result['final']['test_acc']:.2%}, {result['solution']}")
    print(f"{n:,} images: {seconds:.1f} s with loading and predictions")
    for name, speed in rates.items():
        floor = n**3 / 3 / speed
        print(
            f"floor by {name} ({speed / 1e9:.0f} GFLOP/s): {floor:.1f} s, ours "
            f"{seconds / floor:.2f} times"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB")


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

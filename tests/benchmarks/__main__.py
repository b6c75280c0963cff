"""Run every benchmark in a short form, one after the other: `make bench`.

    python -m tests.benchmarks [NAME …]

This takes some minutes on one core. The ratios are reliable only on a quiet machine. Each module
says what its full form measures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

SHORT = {
    "precision": ["--repeats", "2"],
    "throughput": ["--images", "1000", "--repeats", "1", "--threads", "1"],
    "sweep": ["--models", "", "--runs", "20", "--repeats", "1"],
    "load": ["--runs", "100"],
    "collect": ["--runs", "500"],
    "kernel": ["4000"],
}
"""Command-line arguments of each benchmark."""

LEFT_OUT = {
    "examples": "needs CIFAR-10",
    "gpu": "needs a GPU",
    "honesty": "measures accuracies over seeds, not speed",
    "original": "a part of sweep, which needs a checkout of the original code",
}

MNIST = Path(os.environ.get("RANDLABELS_DATA", "data")) / "MNIST"


def main() -> None:
    """Run the named benchmarks, or all; exit with code 1 if any fails."""
    failed = []
    for name in sys.argv[1:] or SHORT:
        if name not in SHORT:
            sys.exit(f"Error: {name} has no short form; use {', '.join(SHORT)}")
        command = ["-m", f"tests.benchmarks.{name}", *SHORT[name]]
        if name == "kernel" and not MNIST.is_dir():
            print(f"\nkernel is left out: {MNIST} does not exist; set RANDLABELS_DATA")
            continue
        print(f"\npython {' '.join(word or repr(word) for word in command)}", flush=True)
        started = time.monotonic()
        if subprocess.run([sys.executable, *command]).returncode:
            failed.append(name)
        print(f"{time.monotonic() - started:.0f} s", flush=True)
    if failed:
        sys.exit(f"Error: these failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

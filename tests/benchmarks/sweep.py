"""Cost of an epoch in a sweep by four programs; overhead of small runs by three launchers.

    python -m tests.benchmarks.sweep [--original CHECKOUT] [--models mlp,wrn] [--images 5000]
                                     [--epochs 2] [--repeats 3] [--precision auto]
                                     [--runs 100] [--workers N]

Part 1 uses CIFAR-10 (RANDLABELS_DATA) with random labels (corrupt=1). Every epoch trains IMAGES
images and evaluates 6/5 as many. Four programs are measured in turns. The original code (with a
CHECKOUT of pluskid/fitting-random-labels) and a plain DataLoader loop execute one run at a time
with all threads. This program (joblib and packed) executes one run per core, one thread each.
The cost of an epoch is its wall clock divided by the number of concurrent runs. It includes the
first epoch, but not the start of the program. Accuracies are printed next to it.

Part 2 uses the embedded digits: RUNS runs of an MLP with 16 units, one epoch each, with WORKERS
workers (basic has none), in turns. Per run:

- training: the `seconds` of metrics.jsonl, all training steps and both evaluations;
- overhead: the wall clock from the first config.yaml to the last done.json, times the workers,
  divided by the runs, minus training. It includes labels, weights, files and their fsyncs, log
  lines, scheduling, and idle workers at the end;
- with start-up: the same for the whole command. It adds the import of torch, composing and checking
  all runs, starting workers, loading data, and the closing table.

Other work on the machine slows all programs at best equally: look at the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import torch
from torch.utils.flop_counter import FlopCounterMode

from randlabels.config import parse
from randlabels.console import print_table
from randlabels.experiment import assemble, build_model, load
from randlabels.machine.resources import cpu_count

from .throughput import plain_epoch

ARCHITECTURES = {"mlp": "mlp", "wrn": "wide-resnet"}
"""Names of the models in the original code."""

WORKERS = {"joblib": "hydra.launcher.n_jobs", "packed": "hydra.launcher.workers"}
"""Launchers with workers, and the key that sets their number."""


def original(checkout: str, model: str, images: int, epochs: int) -> tuple[list[float], float]:
    """Run the original code; return the seconds of each epoch and the last train accuracy."""
    module = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.original"]
    arguments = [checkout, ARCHITECTURES[model], str(images), str(epochs), "1.0"]
    done = subprocess.run(module + arguments, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [line["seconds"] for line in lines], lines[-1]["train_acc"] / 100


def ours(arguments: list[str], folder: Path) -> tuple[float, list[Path]]:
    """Run a sweep; return the seconds of the command and the folders of finished runs."""
    command = [sys.executable, "-m", "randlabels.run", "-m", f"out={folder}", *arguments]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    return seconds, sorted(file.parent for file in folder.glob("*/*/done.json"))


def epochs_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def floating_point_operations(model: str, images: int) -> float:
    """Return FLOPs of an epoch: forward and backward on IMAGES, forward on 6/5 of them."""
    config = parse({"model": {"name": model}})
    network = build_model(config, load(config.dataset))
    batch = torch.zeros(128, 3, 32, 32)
    with FlopCounterMode(display=False) as forward:
        network(batch)
    with FlopCounterMode(display=False) as both:
        network(batch).sum().backward()
    total = both.get_total_flops() * images + forward.get_total_flops() * images * 6 / 5
    return total / 128


def ceilings() -> dict[str, float]:
    """Return FLOP/s of large matrix products and bytes/s copied, on all cores."""
    torch.set_num_threads(cpu_count())
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.ones(2000, 2000, dtype=dtype) for _ in range(2))
        found[name] = 2 * 2000**3 / min(_timed(lambda a=a, b=b: a @ b) for _ in range(5))
    source, target = torch.ones(2**27, dtype=torch.uint8), torch.empty(2**27, dtype=torch.uint8)
    found["copy"] = 2 * 2**27 / min(_timed(lambda: target.copy_(source)) for _ in range(5))
    return found


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare_epochs(options: argparse.Namespace, model: str) -> None:
    """Part 1 for one model."""
    workers, sizes = cpu_count(), [options.images, options.images // 5]
    arguments = [f"dataset.train_size={sizes[0]}", f"dataset.test_size={sizes[1]}", "threads=1"]
    arguments += [f"model={model}", "corrupt=1.0", f"epochs={options.epochs}"]
    arguments += [f"seed=range(0,{workers})", f"precision={options.precision}"]
    config = parse(
        {
            "dataset": {"train_size": sizes[0], "test_size": sizes[1]},
            "model": {"name": model},
            "corrupt": 1.0,
        }
    )
    seconds: dict[str, list[float]] = {}
    accuracy: dict[str, float] = {}
    for _ in range(options.repeats):
        if options.original:
            found, accuracy["original"] = original(
                options.original, model, sizes[0], options.epochs
            )
            seconds.setdefault("original", []).extend(found)
        torch.set_num_threads(workers)
        built = assemble(config)
        assert built.model is not None and config.optimizer.lr is not None
        for _ in range(options.epochs):
            arm = plain_epoch(built.model, built.train, built.test, config.optimizer.lr)
            seconds.setdefault("plain loop", []).append(sum(arm))
        for launcher in ("joblib", "packed"):
            with tempfile.TemporaryDirectory() as folder:
                _, runs = ours([*arguments, f"hydra/launcher={launcher}"], Path(folder))
                records = [record for run in runs for record in epochs_of(run)]
            seconds.setdefault(launcher, []).extend(r["seconds"] / workers for r in records)
            accuracy[launcher] = mean(
                r["train_acc"] for r in records if r["epoch"] + 1 == options.epochs
            )
    operations, top = floating_point_operations(model, sizes[0]), ceilings()
    baseline = median(seconds.get("original", seconds["plain loop"]))
    rows = []
    for arm, values in seconds.items():
        cost = median(values)
        rows.append(
            [
                arm,
                f"{cost:.2f}",
                f"{sizes[0] / cost:,.0f}",
                f"{baseline / cost:.1f}",
                f"{operations / cost / top['fp32']:.0%}",
                f"{operations / cost / top['bf16']:.0%}",
                f"{accuracy[arm]:.2%}" if arm in accuracy else "-",
            ]
        )
    columns = ["arm", "seconds per epoch", "trained images/s", "times faster"]
    columns += ["of fp32 peak", "of bf16 peak", "train acc"]
    print_table(
        f"{model}: {sizes[0]:,} trained, {sum(sizes):,} evaluated; {workers} cores, "
        f"precision={options.precision}, median of {options.repeats} x {options.epochs} epochs; "
        f"peaks {top['fp32'] / 1e9:,.0f} and {top['bf16'] / 1e9:,.0f} GFLOP/s, "
        f"copies {top['copy'] / 1e9:.1f} GB/s",
        columns,
        rows,
    )


@dataclass(frozen=True)
class Launch:
    """Seconds of a sweep: the whole command, until its first run starts, from there until its last
    run ends; and the mean training time of a run."""

    seconds: float
    start: float
    runs: float
    training: float


def launch(launcher: str, workers: int, number: int) -> Launch:
    """Execute the small runs of part 2 in a temporary folder."""
    arguments = ["dataset=digits", "model=mlp", "model.hidden=[16]", "epochs=1", "threads=1"]
    arguments += [f"seed=range(0,{number})", f"hydra/launcher={launcher}"]
    if launcher in WORKERS:
        arguments += [f"{WORKERS[launcher]}={workers}"]
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        seconds, runs = ours(arguments, Path(folder))
        first = min((run / "config.yaml").stat().st_mtime for run in runs)
        last = max((run / "done.json").stat().st_mtime for run in runs)
        training = mean(sum(epoch["seconds"] for epoch in epochs_of(run)) for run in runs)
    assert len(runs) == number
    return Launch(seconds, first - began, last - first, training)


def compare_launchers(options: argparse.Namespace) -> None:
    """Part 2."""
    found: dict[str, list[Launch]] = {"basic": [], "joblib": [], "packed": []}
    for _ in range(options.repeats):
        for launcher, launches in found.items():
            launches.append(launch(launcher, options.workers, options.runs))
    seconds = {name: median(each.seconds for each in launches) for name, launches in found.items()}
    rows = []
    for launcher, launches in found.items():
        share = (options.workers if launcher in WORKERS else 1) / options.runs
        rows.append(
            [
                launcher,
                f"{seconds[launcher]:.1f}",
                f"{seconds['joblib'] / seconds[launcher]:.1f}",
                f"{median(each.start for each in launches):.1f}",
                f"{1e3 * median(each.training for each in launches):.1f}",
                f"{1e3 * median(each.runs * share - each.training for each in launches):.1f}",
                f"{1e3 * median(each.seconds * share - each.training for each in launches):.1f}",
            ]
        )
    columns = ["launcher", "seconds", "times joblib", "start-up s", "training ms"]
    columns += ["overhead ms", "with start-up ms"]
    title = f"{options.runs} runs on digits, {options.workers} workers, median of {options.repeats}"
    print_table(title, columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--original", help="a checkout of pluskid/fitting-random-labels")
    parser.add_argument("--models", default="mlp,wrn", help="of part 1; empty for part 2 alone")
    parser.add_argument("--images", type=int, default=5_000, help="trained images of part 1")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--runs", type=int, default=100, help="runs of part 2; 0 to leave it out")
    parser.add_argument("--workers", type=int, default=cpu_count(), help="default: one a core")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")])
    )
    for model in filter(None, options.models.split(",")):
        compare_epochs(options, model)
    if options.runs:
        compare_launchers(options)


if __name__ == "__main__":
    main()

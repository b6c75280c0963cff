"""Share of an epoch that examples=true costs, in processor time.

    python -m tests.benchmarks.examples [--mlp 50000] [--wrn 2000] [--repeats 3]

Epochs of CIFAR-10 without and with examples are trained in turns, each with its evaluations and,
as at a checkpoint, with the file's content. Their difference is below the noise of a shared
machine, so the added work is also measured alone, on logits of as many images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from randlabels import dynamics, fit
from randlabels.config import parse
from randlabels.console import print_table
from randlabels.experiment import Experiment, assemble
from randlabels.machine.resources import resolve


def processor_seconds(act: Callable[[], object]) -> float:
    started = time.process_time()
    act()
    return time.process_time() - started


def build(model: str, images: int, examples: bool) -> Experiment:
    dataset = {"name": "cifar10", "train_size": images, "test_size": images // 5}
    tree = {"model": {"name": model}, "dataset": dataset, "corrupt": 0.4, "epochs": 1}
    return assemble(parse({**tree, "examples": examples}))


def epoch(model: str, images: int, examples: bool) -> float:
    """Return the seconds of one epoch, from the first step to the content of the file."""
    built = build(model, images, examples)
    resources = resolve(built.config, None)
    state = fit.start(built, resources)

    def train() -> None:
        list(fit.sgd(built, state, resources))
        if state.dynamics:
            dynamics.encode(state.dynamics, built.train)

    return processor_seconds(train)


def added(model: str, images: int) -> float:
    """Return the seconds of what an epoch with examples does in addition."""
    built = build(model, images, examples=True)
    logits, labels = torch.randn(images, 10), built.train.labels
    earlier = dynamics.update(None, 0, 1, logits, labels, built.config.loss(logits, labels))

    def record() -> None:
        losses = built.config.loss(logits, labels)
        dynamics.encode(dynamics.update(earlier, 2, 2, logits, labels, losses), built.train)

    record()  # imports pandas
    return median(processor_seconds(record) for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mlp", type=int, default=50_000, help="training images of the MLP")
    parser.add_argument("--wrn", type=int, default=2_000, help="training images of the WRN")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for model, images in (("mlp", options.mlp), ("wrn", options.wrn)):
        alone = added(model, images)
        turns = [[epoch(model, images, on) for on in (False, True)] for _ in range(options.repeats)]
        without, recorded = (median(arm) for arm in zip(*turns, strict=True))
        cells = f"{without:.2f}", f"{recorded:.2f}", f"{1000 * alone:.0f}", f"{alone / without:.1%}"
        rows.append([model, f"{images:,}", *cells])
    columns = ["model", "images", "epoch (s)", "with examples (s)", "added (ms)", "share"]
    print_table(f"Processor time, median of {options.repeats}", columns, rows)


if __name__ == "__main__":
    main()

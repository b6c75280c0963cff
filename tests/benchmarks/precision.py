"""Images per second of one core in fp32 and bf16, by model: the basis of `precision=auto`.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.precision [--only NAME] [--repeats 3]

One epoch on random pixels, best of the repeats. Processor time is measured instead of wall clock,
since other work on the machine affects it less. A model records the decision in `bf16_on_cpu`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from randlabels import fit
from randlabels.config import parse
from randlabels.console import print_table
from randlabels.dataset import Data, Split
from randlabels.experiment import Experiment, build_model
from randlabels.machine.resources import Resources

CIFAR, MNIST, CROPPED, DIGITS = (3, 32, 32), (1, 28, 28), (3, 28, 28), (1, 8, 8)
CASES = {  # model, images per epoch, image shape, batch size
    "mlp [512]": ({"name": "mlp"}, 2560, CIFAR, 128),
    "mlp [512,512,512]": ({"name": "mlp", "hidden": [512] * 3}, 2560, CIFAR, 128),
    "mlp [512], MNIST": ({"name": "mlp"}, 2560, MNIST, 128),
    "mlp [512,512], digits": ({"name": "mlp", "hidden": [512] * 2}, 1437, DIGITS, 32),
    "mlp [64], digits": ({"name": "mlp", "hidden": [64]}, 1437, DIGITS, 128),
    "linear": ({"name": "linear"}, 2560, CIFAR, 128),
    "wrn 28-1": ({"name": "wrn"}, 384, CIFAR, 128),
    "wrn 10-1, digits": ({"name": "wrn", "depth": 10}, 512, DIGITS, 32),
    "inception": ({"name": "inception"}, 256, CROPPED, 128),
    "inception_no_bn": ({"name": "inception_no_bn"}, 256, CROPPED, 128),
    "resnet18": ({"name": "resnet18"}, 128, CIFAR, 128),
    "alexnet": ({"name": "alexnet"}, 384, CROPPED, 128),
    "lenet": ({"name": "lenet"}, 1280, MNIST, 128),
}


@contextmanager
def processor_time() -> Iterator[None]:
    """Make `fit.sgd` measure the processor time of this process instead of wall clock."""
    clock = time.perf_counter
    time.perf_counter = time.process_time
    try:
        yield
    finally:
        time.perf_counter = clock


def epoch(case: str, precision: str) -> tuple[float, float]:
    """Return trained and evaluated images per second."""
    model, size, shape, batch_size = CASES[case]
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, *shape), dtype=torch.uint8, generator=rng)
    labels = torch.randint(0, 10, (size,), generator=rng)
    config = parse({"model": model, "epochs": 1, "batch_size": batch_size})
    data = Data(Split(images, labels), Split(images[:8], labels[:8]), 10)
    train, test = Split(images, labels, labels), Split(images[:8], labels[:8], labels[:8])
    built = Experiment(config, train, test, data.moments, build_model(config, data), {}, "")
    resources = Resources("cpu", precision, 1)
    state = fit.start(built, resources)
    with processor_time():
        (record,) = fit.sgd(built, state, resources)
    seconds, speed = record["seconds"], record["images_per_second"]
    assert seconds is not None and speed is not None
    return speed, (size + 8) / (seconds - size / speed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        if options.only not in case:
            continue
        speeds: dict[str, list[tuple[float, float]]] = {"fp32": [], "bf16": []}
        for _ in range(options.repeats):
            for precision, measured in speeds.items():
                measured.append(epoch(case, precision))
        low, high = ([max(column) for column in zip(*speeds[p], strict=True)] for p in speeds)
        row = [case]
        for slow, fast in zip(low, high, strict=True):
            row += [f"{slow:,.0f}", f"{fast:,.0f}", f"{fast / slow:.2f}"]
        rows.append(row)
    columns = ["model", "trained, fp32", "bf16", "ratio", "evaluated, fp32", "bf16", "ratio"]
    print_table(f"Images/s on one core, best of {options.repeats}", columns, rows)


if __name__ == "__main__":
    main()

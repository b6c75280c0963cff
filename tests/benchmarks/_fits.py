"""Fits on random images, and how their weights differ; for `tests.benchmarks.gpu`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from randlabels import fit, network
from randlabels.config import parse
from randlabels.dataset import Data, Split
from randlabels.experiment import Experiment, build_model
from randlabels.machine import gpu
from randlabels.machine.resources import Resources

Tree = dict[str, Any]


class Trained(NamedTuple):
    """The records of a fit, its weights on the CPU, and whether its steps were captured."""

    records: list[dict[str, Any]]
    weights: dict[str, torch.Tensor]
    captured: bool | None


def experiment(tree: Tree, images: int) -> Experiment:
    """Return a run on random images, the first 40 of which are its test set."""
    config = parse({"dataset": {"name": "cifar10"}, **tree})
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, generator=rng)
    labels = torch.randint(0, 10, (images,), generator=rng)
    data = Data(Split(pixels, labels), Split(pixels[:40], labels[:40]), 10)
    train = Split(pixels, labels, labels)
    test = Split(pixels[:40], labels[:40], labels[:40])
    model = None if config.exact else build_model(config, data)
    return Experiment(config, train, test, data.moments, model, {"classes": 10}, "")


def train(device: str, tree: Tree, images: int, precision: str, *, graphs: bool = True) -> Trained:
    """Train a run on this process's stream, as `execute` does."""
    built = experiment({"epochs": 2, **tree}, images)
    on_gpu = Resources(device, precision, 1, tree.get("compile") == "true")
    capturing = fit.graphs
    try:
        if not graphs:
            fit.graphs = lambda *_: None
        with gpu.stream(device):
            state = fit.start(built, on_gpu)
            records = list(fit.sgd(built, state, on_gpu))
            weights = {key: value.cpu() for key, value in state.model.state_dict().items()}
    finally:
        fit.graphs = capturing
    return Trained(records, weights, state.captured)


def difference(found: Trained, expected: Trained) -> float:
    """Return the largest difference of weights, relative to the largest weight of a layer."""
    return max(
        float((found.weights[key].double() - value.double()).abs().max())
        / (float(value.double().abs().max()) + 1e-12)
        for key, value in expected.weights.items()
    )


@contextmanager
def channels_first() -> Iterator[None]:
    """Build networks in torch's default memory format."""
    formats = network.memory_format, fit.memory_format
    network.memory_format = fit.memory_format = lambda model: torch.contiguous_format
    try:
        yield
    finally:
        network.memory_format, fit.memory_format = formats

"""Exact fits: labels represented by solving equations, all sets of labels at once."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from .config import Config
from .dataset import Split
from .experiment import Experiment
from .fit import measure
from .machine.resources import Resources, free_memory
from .model import ExactModel, SolveOptions
from .randomness import generator
from .store.metrics import LOSSES, Record


class Solved(NamedTuple):
    """One run's record, its number of weights, and what else its solution reports."""

    record: Record
    parameters: int
    report: dict[str, Any]


def system_key(config: Config) -> str:
    """What runs that share one system of equations have in common: all but their labels, and
    the seed where nothing is drawn with it."""
    identity = config.identity()
    if not config.alters_images:
        identity.pop("corruption", None)
        identity.pop("corrupt", None)
    if not _model(config).draws:
        identity.pop("seed", None)
    return json.dumps(identity, sort_keys=True)


def solve_options(
    experiment: Experiment,
    resources: Resources,
    *,
    share: bool,
    tick: Callable[[float], None] = lambda share: None,
) -> SolveOptions:
    """How a fit computes; `share` says that other processes may be solving the same system."""
    config = experiment.config
    wanted = getattr(config.model, "cache", False)
    cache = None
    if share if wanted is None else wanted:
        key = f"{system_key(config)} {experiment.data_sha256} {resources.precision}"
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        cache = config.folder / ".factors" / f"{name}.npy"
    memory = free_memory(resources.device)
    return SolveOptions(_dtype(resources), cache, tick, memory, _threads(resources))


def memory_options(resources: Resources) -> SolveOptions:
    """Return the options that the memory of a fit depends on."""
    return SolveOptions(_dtype(resources), threads=_threads(resources))


def _model(config: Config) -> ExactModel:
    assert isinstance(config.model, ExactModel)
    return config.model


def _dtype(resources: Resources) -> torch.dtype:
    return torch.float64 if resources.precision == "fp64" else torch.float32


def _threads(resources: Resources) -> int:
    """Which need memory of their own: on a GPU one thread computes, as in `products.cores`."""
    return resources.threads if resources.device == "cpu" else 1


def solve(
    experiments: Sequence[Experiment],
    resources: Resources,
    options: SolveOptions,
) -> list[Solved]:
    """Solve the experiments of one `system_key` together.

    The seconds of a record are its share of the whole.

    Raises:
        ArithmeticError: there is no solution in this precision, or an output is not finite.
    """
    started = time.perf_counter()
    first = experiments[0]
    model, device, classes = _model(first.config), resources.device, first.corruption["classes"]

    def encoded(labels: torch.Tensor) -> torch.Tensor:
        return model.encode(labels, classes)

    def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Squared error, mean over the outputs of an image."""
        return (outputs - encoded(labels)).square().mean(1)

    fits = model.solve(
        inputs(first, first.train, device),
        inputs(first, first.test, device),
        [encoded(experiment.train.labels.to(device)) for experiment in experiments],
        generator("init", first.config.seed),
        options,
    )
    solved = []
    for experiment, fit in zip(experiments, fits, strict=True):
        train, test = experiment.train.to(device), experiment.test.to(device)
        measured = measure(loss, train, test, fit.train, fit.test, model.decode)
        if not all(math.isfinite(measured[key] or 0.0) for key in LOSSES):
            raise ArithmeticError("an output of the solution is not finite; use precision=fp64")
        record: Record = {"epoch": 0, "lr": None, **measured}
        solved.append(Solved(record, fit.parameters, fit.report))
    seconds = (time.perf_counter() - started) / len(experiments)
    for each in solved:
        each.record.update({"seconds": seconds, "images_per_second": None})
    return solved


def inputs(experiment: Experiment, examples: Split, device: str) -> torch.Tensor:
    """Preprocessed images (N, C, H, W) float32 on the device."""
    preprocess = experiment.config.preprocess
    mean, deviation = (moment.to(device) for moment in experiment.moments)
    parts = (
        preprocess(preprocess.crop(part.to(device, torch.float32, copy=True)), (mean, deviation))
        for part in examples.images.split(1000)
    )
    return torch.cat(list(parts))

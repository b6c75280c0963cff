"""Exact fits: a linear system solved for all label sets of the same images at once."""

import json
import math
import time
from collections.abc import Callable, Sequence

import torch

from .config import Config
from .dataset import Split
from .experiment import Experiment
from .fit import measure
from .machine.resources import Resources, free_memory
from .model import ExactFit, ExactModel, SolveOptions
from .randomness import generator
from .store.metrics import LOSSES, Record


def system_key(config: Config) -> str:
    """Return a text that is equal for runs with the same equations.

    These are runs that differ in their labels alone, or in a seed that the model does not use.
    """
    identity = config.identity()
    if not config.alters_images:
        identity.pop("corruption", None)
        identity.pop("corrupt", None)
    if isinstance(config.model, ExactModel) and not config.model.draws:
        identity.pop("seed", None)
    return json.dumps(identity, sort_keys=True)


def group_by_system(configs: Sequence[Config]) -> list[list[Config]]:
    """Return groups of runs: exact fits first, those of one system together, others one by one."""
    groups: dict[object, list[Config]] = {}
    for config in sorted(configs, key=lambda config: not config.exact):
        same = system_key(config) if config.exact else str(config.run.path)
        groups.setdefault((same, config.dataset.folder), []).append(config)
    return [*groups.values()]


def dtype_of(precision: str) -> torch.dtype:
    return torch.float64 if precision == "fp64" else torch.float32


def solve(
    experiments: Sequence[Experiment],
    resources: Resources,
    tick: Callable[[float], None] = lambda share: None,
) -> list[tuple[Record, ExactFit]]:
    """Return the record and the fit of each experiment; all must have one `system_key`.

    tick: see `SolveOptions`. The seconds of a record are an equal share of the whole.

    Raises:
        ArithmeticError: the equations are singular in this precision, or an output is not finite.
    """
    started = time.perf_counter()
    first = experiments[0]
    model, device, classes = first.config.model, resources.device, first.corruption["classes"]
    assert isinstance(model, ExactModel)

    def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (outputs - model.encode(labels, classes)).square().mean(1)

    fits = model.solve(
        inputs(first, first.train, device),
        inputs(first, first.test, device),
        [model.encode(e.train.labels.to(device), classes) for e in experiments],
        generator("init", first.config.seed),
        SolveOptions(dtype_of(resources.precision), tick, free_memory(device)),
    )
    records: list[Record] = []
    for experiment, fit in zip(experiments, fits, strict=True):
        train, test = experiment.train.to(device), experiment.test.to(device)
        measured = measure(loss, train, test, fit.train, fit.test, model.decode)
        if not all(math.isfinite(measured[key] or 0.0) for key in LOSSES):
            raise ArithmeticError("an output of the solution is not finite; use precision=fp64")
        records.append({"epoch": 0, "lr": None, **measured})
    seconds = (time.perf_counter() - started) / len(experiments)
    for record in records:
        record.update({"seconds": seconds, "images_per_second": None})
    return list(zip(records, fits, strict=True))


def inputs(experiment: Experiment, split: Split, device: str) -> torch.Tensor:
    """Return preprocessed images (N, C, H, W) float32 on the device."""
    preprocess = experiment.config.preprocess
    mean, deviation = (moment.to(device) for moment in experiment.moments)
    images = preprocess.crop(split.images).to(device, torch.float32, copy=True)
    return preprocess(images, (mean, deviation))

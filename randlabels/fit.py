"""Fitting by stochastic gradient descent: one linear loop, at the original code's semantics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .environment import Resources
from .experiment import Examples, Experiment
from .metrics import LOSSES, MEASURED, Record
from .models.dropout import reseed_dropout
from .randomness import generator

EVALUATION_BATCH = {"cpu": 128, "cuda": 4096}
"""Images per forward pass in evaluation: on a CPU, as many as its caches hold the activations of
(WRN-28-1 on 2 cores, images/s: 64: 1,600; 128: 1,830; 512: 1,300)."""


@dataclass
class State:
    """Where a fit stands; with the config, all that its continuation depends on.

    epoch: the next epoch to train, 0-based.
    diverged_at: the epoch in which a loss stopped being finite, if one did.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    diverged_at: int | None = None
    records: list[Record] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain values, for a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "records": self.records,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue where `to_dict` was called."""
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.epoch = saved["epoch"]
        self.records = saved["records"]


def start(experiment: Experiment, resources: Resources) -> State:
    """The state before epoch 0, on the device."""
    assert experiment.model is not None
    model = experiment.model.to(memory_format=_memory_format(experiment.model))
    model = model.to(resources.device)
    return State(model, experiment.config.optimizer.build(model.parameters()))


def sgd(
    experiment: Experiment,
    state: State,
    resources: Resources,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Record]:
    """Train from `state` to the last epoch, yielding each epoch's record once it is complete.

    Between two records `state` is that of the end of an epoch. A loss that is not finite ends
    the fit: its epoch has no record and stands in `state.diverged_at`. `tick` is called after
    each training step.
    """
    config = experiment.config
    device, model, optimizer = resources.device, state.model, state.optimizer
    train, test = experiment.train.to(device), experiment.test.to(device)
    mean, deviation = (moment.to(device) for moment in experiment.moments)
    memory_format = _memory_format(model)
    autocast = torch.autocast(resources.kind, torch.bfloat16, resources.precision == "bf16")
    assert config.optimizer.lr is not None

    height, width = config.preprocess.crop(test.images[:1]).shape[2:]

    def pixels(images: torch.Tensor) -> torch.Tensor:
        """A copy, since preprocessing may overwrite it and altered images are float32 already."""
        return images.to(torch.float32, memory_format=memory_format, copy=True)

    def inputs(images: torch.Tensor) -> torch.Tensor:
        seen = config.preprocess(config.preprocess.crop(images), (mean, deviation))
        return seen.contiguous(memory_format=memory_format)

    def predict(images: torch.Tensor) -> torch.Tensor:
        """Logits (N, K) float32 of all images, with the model in eval mode."""
        model.eval()
        with torch.inference_mode(), autocast:
            return torch.cat(
                [
                    model(inputs(pixels(batch))).float()
                    for batch in images.split(EVALUATION_BATCH[resources.kind])
                ]
            )

    for epoch in range(state.epoch, config.epochs):
        started = time.perf_counter()
        lr = config.optimizer.lr * config.schedule.factor(epoch, config.epochs)
        for group in optimizer.param_groups:
            group["lr"] = lr

        # Train on every image once, in the order of this seed and epoch; keep the last small batch.
        model.train()
        reseed_dropout(model, generator("dropout", config.seed, epoch, device))
        augment_rng = generator("augment", config.seed, epoch, device)
        order = torch.randperm(len(train.labels), generator=generator("order", config.seed, epoch))
        finite = torch.ones((), dtype=torch.bool, device=device)
        for batch in order.to(device).split(config.batch_size):
            images = config.augment(pixels(train.images[batch]), (height, width), augment_rng)
            with autocast:
                logits = model(inputs(images))
            loss = config.loss(logits.float(), train.labels[batch]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            finite &= loss.detach().isfinite()
            tick()
        diverged = not finite.item()  # waits for the device
        trained = time.perf_counter()

        # Evaluate on the full sets, under both kinds of labels.
        measured: Record = dict.fromkeys(MEASURED)
        last = epoch + 1 == config.epochs
        if not diverged and (last or (epoch + 1) % config.eval_every == 0):
            measured = measure(
                config.loss, train, test, predict(train.images), predict(test.images)
            )
            diverged = not all(math.isfinite(measured[key] or 0.0) for key in LOSSES)
        if diverged:
            state.diverged_at = epoch
            return

        record: Record = {
            "epoch": epoch,
            "lr": lr,
            **measured,
            "seconds": time.perf_counter() - started,
            "images_per_second": len(order) / (trained - started),
        }
        state.epoch = epoch + 1
        state.records.append(record)
        yield record


def measure(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    train: Examples,
    test: Examples,
    train_outputs: torch.Tensor,
    test_outputs: torch.Tensor,
    decode: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits.argmax(1),
) -> Record:
    """All of `metrics.MEASURED` from the outputs (N, C) of both parts, which `decode` makes
    classes (N,) of.

    Where the images were altered there are no noisy labels to measure against: None.
    """
    fitted = decode(train_outputs)
    fits = fitted == train.labels
    predicted = decode(test_outputs)
    altered = test.altered is not None
    return {
        "train_loss": _mean(loss(train_outputs, train.labels)),
        "train_acc": _mean(fits),
        "test_loss": _mean(loss(test_outputs, test.true)),
        "test_acc": _mean(predicted == test.true),
        "test_loss_noisy": None if altered else _mean(loss(test_outputs, test.labels)),
        "test_acc_noisy": None if altered else _mean(predicted == test.labels),
        "train_acc_true": _mean(fitted == train.true),
        "train_acc_clean": _mean(fits[~train.changed]),
        "train_acc_corrupted": _mean(fits[train.changed]),
    }


def _mean(values: torch.Tensor) -> float | None:
    """Mean of (N,) values, summed in float64; None where N = 0."""
    return values.double().mean().item() if len(values) else None


def _memory_format(model: nn.Module) -> torch.memory_format:
    """Convolutions are faster with the channels last; flattening wants them first."""
    if any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
        return torch.channels_last
    return torch.contiguous_format

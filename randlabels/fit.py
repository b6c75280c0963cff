"""Fit by stochastic gradient descent: one linear loop, with the original code's semantics."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from . import dynamics
from .config import Config
from .dataset import Split
from .dynamics import Dynamics
from .experiment import Experiment
from .machine.gpu import Pace, Step, graphs
from .machine.resources import Resources
from .model.dropout import reseed_dropout
from .network import Classifier, memory_format
from .randomness import derive_seed, generator
from .sensitivity import critical, gini, loss_gradients
from .store.checkpoint import require_like
from .store.metrics import LOSSES, MEASURED, SENSITIVITY, Record


@dataclass
class State:
    """The state of a fit: with the config, everything that its continuation depends on.

    epoch: the epoch to train, 0-based.
    step: number of finished training steps of that epoch.
    finite: () bool on the device, whether all losses of these steps are finite.
    elapsed: seconds spent on these steps.
    rngs: generators of the epoch by purpose, on the device.
    diverged_at: the epoch in which a loss stopped being finite; None if none did.
    gradients: `sensitivity.loss_gradients`, summed over the evaluations; None before the first.
    dynamics: of `dynamics.update`, with `examples`; None before the first evaluation.
    captured: whether training steps run as CUDA graphs; None on a CPU and before an epoch's end.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    step: int = 0
    finite: torch.Tensor = field(init=False)
    elapsed: float = 0.0
    rngs: dict[str, torch.Generator] = field(init=False)
    diverged_at: int | None = None
    records: list[Record] = field(default_factory=list)
    gradients: torch.Tensor | None = None
    dynamics: Dynamics | None = None
    captured: bool | None = None

    def __post_init__(self) -> None:
        device = next(self.model.parameters()).device
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        self.rngs = {purpose: torch.Generator(device) for purpose in ("dropout", "augment")}

    def to_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, for a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "records": self.records,
            "step": self.step,
            "finite": bool(self.finite),
            "elapsed": self.elapsed,
            "rngs": {purpose: rng.get_state() for purpose, rng in self.rngs.items()},
            "gradients": self.gradients,
            "dynamics": self.dynamics,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from a saved `to_dict`; RuntimeError if its model or optimizer differs."""
        require_like(saved["model"], self.model.state_dict(), "model")
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for index, entry in saved["optimizer"]["state"].items():
            moments = {k: v for k, v in entry.items() if getattr(v, "shape", ())}  # no counts
            require_like(moments, dict.fromkeys(moments, parameters[index]), "optimizer")
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        device = parameters[0].device
        self.epoch, self.records = saved["epoch"], saved["records"]
        self.step, self.elapsed = saved["step"], saved["elapsed"]
        self.finite.fill_(saved["finite"])
        for purpose, state in saved["rngs"].items():
            self.rngs[purpose].set_state(state)
        if (gradients := saved.get("gradients")) is not None:  # which earlier versions lack
            self.gradients = gradients.to(device)
        if found := saved.get("dynamics"):
            self.dynamics = {name: values.to(device) for name, values in found.items()}

    @property
    def evaluations(self) -> int:
        """Number of evaluations so far."""
        return sum(record["train_acc"] is not None for record in self.records)

    @property
    def place(self) -> str:
        """Where the fit continues, such as `after epoch 3` or `in epoch 4, after step 17`."""
        if self.step:
            return f"in epoch {self.epoch}, after step {self.step}"
        return f"after epoch {self.epoch - 1}" if self.epoch else "from the start"

    def set_lr(self, lr: float) -> None:
        """Set the learning rate, in place if it is a tensor, as captured steps need."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def enter_epoch(self, seed: int) -> None:
        """Reset for the first step of an epoch, in place, as captured steps need."""
        self.finite.fill_(True)
        self.elapsed = 0.0
        for purpose, rng in self.rngs.items():
            rng.manual_seed(derive_seed(purpose, seed, self.epoch))


def start(experiment: Experiment, resources: Resources) -> State:
    """Return the state before epoch 0, on the device."""
    assert experiment.model is not None
    model = experiment.model.to(memory_format=memory_format(experiment.model))
    model = model.to(resources.device)
    return State(model, experiment.config.optimizer.build(model.parameters()))


def sgd(
    experiment: Experiment,
    state: State,
    resources: Resources,
    tick: Callable[[], None] = lambda: None,
    pause: Callable[[], None] = lambda: None,
) -> Iterator[Record]:
    """Train from `state` to the last epoch, and yield each epoch's record once it is complete.

    A loss that is not finite ends the fit: its epoch has no record, and `state.diverged_at` is
    set. `tick` is called after each training step; `pause` is called then too, and after each
    batch of an evaluation. Between two records, and where `pause` raises, `state` is complete: a
    fit that continues from it ends as if it had not stopped.
    """
    config, device, optimizer = experiment.config, resources.device, state.optimizer
    train, test = experiment.train.to(device), experiment.test.to(device)
    classifier = Classifier(experiment, state.model, resources)
    assert config.optimizer.lr is not None

    def descend(batch: torch.Tensor) -> None:
        images = classifier.pixels(train.images[batch])
        logits = classifier(config.augment(images, classifier.size, state.rngs["augment"]))
        loss = config.loss(logits, train.labels[batch]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state.finite &= loss.detach().isfinite()

    capture = graphs(device, optimizer, state.rngs.values())
    step, pace = Step(descend, config.batch_size, capture), Pace(device)
    if capture is not None:
        for group in optimizer.param_groups:  # a number would be captured as it is now
            group["lr"] = torch.zeros((), device=device)

    for epoch in range(state.epoch, config.epochs):
        if state.step == 0:
            state.enter_epoch(config.seed)
        started = time.perf_counter() - state.elapsed
        lr = config.optimizer.lr * config.schedule.factor(epoch, config.epochs)
        state.set_lr(lr)

        # Train on every image once, in the order of this seed and epoch; keep the last small batch.
        state.model.train()
        reseed_dropout(state.model, state.rngs["dropout"])
        order = torch.randperm(len(train.labels), generator=generator("order", config.seed, epoch))
        for batch in order.to(device).split(config.batch_size)[state.step :]:
            step(batch)
            pace()
            state.step += 1
            state.elapsed = time.perf_counter() - started
            tick()
            pause()
        diverged = not state.finite.item()  # waits for the device
        state.captured = step.captured
        trained = time.perf_counter()

        # Evaluate on the full sets, under both kinds of labels.
        measured: Record = dict.fromkeys(MEASURED)
        watched: Record = dict.fromkeys(SENSITIVITY if config.sensitivity else ())
        gradients, examples = state.gradients, state.dynamics
        last = epoch + 1 == config.epochs
        if not diverged and (last or (epoch + 1) % config.eval_every == 0):
            fitted, predicted = (classifier.predict(x.images, pause) for x in (train, test))
            measured = measure(config.loss, train, test, fitted, predicted)
            diverged = not all(math.isfinite(measured[key] or 0.0) for key in LOSSES)
            if config.sensitivity and not diverged:
                watched, gradients = _watch(config, train, classifier, state, pause)
            if config.examples and not diverged:
                times, losses = state.evaluations + 1, config.loss(fitted, train.labels)
                examples = dynamics.update(examples, epoch, times, fitted, train.labels, losses)
        if diverged:
            state.diverged_at = epoch
            return

        record: Record = {
            "epoch": epoch,
            "lr": lr,
            **measured,
            "seconds": time.perf_counter() - started,
            "images_per_second": len(order) / (trained - started),
            **watched,
        }
        state.epoch, state.step = epoch + 1, 0
        state.gradients, state.dynamics = gradients, examples
        state.records.append(record)
        yield record


def _watch(
    config: Config, train: Split, classifier: Classifier, state: State, pause: Callable[[], None]
) -> tuple[Record, torch.Tensor]:
    """Return the metrics SENSITIVITY of the images that this seed watches, null where not finite,
    and `State.gradients` with those of this evaluation.

    It computes in fp32 under every precision, since bf16 would round the small changes away.
    """

    def logits(images: torch.Tensor) -> torch.Tensor:
        pause()
        return classifier.exactly(classifier.pixels(images))

    device = train.labels.device
    order = torch.randperm(len(train.labels), generator=generator("sensitivity", config.seed))
    chosen = order[: config.sensitivity].to(device)
    images = config.preprocess.crop(train.images[chosen]).float().split(config.batch_size)
    batches = list(zip(images, train.labels[chosen].split(config.batch_size), strict=True))
    gradients = torch.cat([loss_gradients(logits, config.loss, *batch) for batch in batches])
    total = gradients if state.gradients is None else state.gradients + gradients
    rng = generator("langevin", config.seed, state.epoch, device)
    found = torch.cat([critical(logits, batch, rng) for batch in images])
    mean = total.mean().item() / (1 + state.evaluations)
    values = (mean, gini(total), found.double().mean().item())
    finite = (value if math.isfinite(value) else None for value in values)
    return dict(zip(SENSITIVITY, finite, strict=True)), total


def measure(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    train: Split,
    test: Split,
    train_outputs: torch.Tensor,
    test_outputs: torch.Tensor,
    decode: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits.argmax(1),
) -> Record:
    """Return all of `metrics.MEASURED` from the outputs (N, C) on both splits.

    decode: makes classes (N,) from outputs. Metrics against noisy test labels are None where the
    images were altered instead.
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

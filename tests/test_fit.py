"""The fit against an independent plain loop, its metrics against NumPy, and its repeatability."""

from __future__ import annotations

import itertools
import math
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from randlabels import fit
from randlabels.config import parse
from randlabels.dataset import Split
from randlabels.experiment import Experiment, assemble
from randlabels.loss import CrossEntropy
from randlabels.machine.resources import Resources
from randlabels.model import wrn
from randlabels.randomness import generator
from randlabels.store.metrics import Record

from .conftest import CPU, left_at, untimed


def small_experiment(**keys: object) -> Experiment:
    small = {
        "dataset": {"name": "digits", "train_size": 200, "test_size": 100},
        "model": {"name": "mlp", "hidden": [16]},
        "corrupt": 0.5,
        "epochs": 4,
        "batch_size": 32,
        "schedule": {"name": "step", "milestones": [2]},
    }
    return assemble(parse({**small, **keys}))


def train_to_the_end(built: Experiment) -> list[Record]:
    return list(fit.sgd(built, fit.start(built, CPU), CPU))


def plain_loop(built: Experiment) -> list[tuple[float, float, float, float]]:
    """train.py of the original code on an MLP in float64, with the update rule written out.

    Yields per epoch: train accuracy, true test accuracy, train loss, true test loss.
    """
    w1, w2 = (p.detach().double().clone() for p in built.model.parameters())
    v1, v2 = torch.zeros_like(w1), torch.zeros_like(w2)
    mean, deviation = built.moments

    def prepare(images: torch.Tensor) -> torch.Tensor:
        pixels = (images.double() - mean.double()[:, None, None]) / deviation.double()[
            :, None, None
        ]
        return pixels.reshape(len(images), -1)

    x, y = prepare(built.train.images), built.train.labels
    x_test, y_test = prepare(built.test.images), built.test.true
    found = []
    for epoch in range(4):
        lr = 0.01 if epoch < 2 else 0.001
        order = torch.randperm(len(x), generator=generator("order", 0, epoch))
        for start in range(0, len(x), 32):
            batch = order[start : start + 32]
            hidden = x[batch] @ w1.T
            active = hidden.clamp(min=0)
            p = (active @ w2.T).softmax(1)
            delta = (p - F.one_hot(y[batch], 10)) / len(batch)
            g2 = delta.T @ active
            g1 = ((delta @ w2) * (hidden > 0)).T @ x[batch]
            v1 = 0.9 * v1 + g1 + 1e-4 * w1
            v2 = 0.9 * v2 + g2 + 1e-4 * w2
            w1, w2 = w1 - lr * v1, w2 - lr * v2
        row = []
        for inputs, labels in ((x, y), (x_test, y_test)):
            logits = (inputs @ w1.T).clamp(min=0) @ w2.T
            accuracy = (logits.argmax(1) == labels).double().mean().item()
            row.append((accuracy, F.cross_entropy(logits, labels).item()))
        found.append((row[0][0], row[1][0], row[0][1], row[1][1]))
    return found


def test_curve_equals_the_original_loop_written_out_in_float64() -> None:
    built = small_experiment()
    expected = plain_loop(built)
    for record, (train_acc, test_acc, train_loss, test_loss) in zip(
        train_to_the_end(built), expected, strict=True
    ):
        assert record["train_loss"] == pytest.approx(train_loss, rel=1e-4)
        assert record["test_loss"] == pytest.approx(test_loss, rel=1e-4)
        assert record["train_acc"] == pytest.approx(train_acc, abs=1.5 / 200)
        assert record["test_acc"] == pytest.approx(test_acc, abs=1.5 / 100)


@pytest.mark.parametrize("corrupted", [0, 5, 12], ids=["none", "some", "all"])
def test_metrics_equal_numpys(corrupted: int) -> None:
    rng = np.random.RandomState(0)
    true = rng.randint(0, 4, 12)
    labels = np.where(np.arange(12) < corrupted, (true + 1) % 4, true)
    logits = rng.randn(12, 4).astype(np.float32)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    part = Split(torch.zeros(12, 1, 1, 1), torch.tensor(labels), torch.tensor(true))
    found = fit.measure(CrossEntropy(), part, part, torch.tensor(logits), torch.tensor(logits))
    predicted, changed = logits.argmax(1), labels != true

    def accuracy(wanted: np.ndarray, mask: np.ndarray) -> float | None:
        return float(np.mean((predicted == wanted)[mask])) if mask.any() else None

    everything = np.ones(12, dtype=bool)
    assert found == pytest.approx(
        {
            "train_loss": -log_p[np.arange(12), labels].mean(),
            "train_acc": accuracy(labels, everything),
            "test_loss": -log_p[np.arange(12), true].mean(),
            "test_acc": accuracy(true, everything),
            "test_loss_noisy": -log_p[np.arange(12), labels].mean(),
            "test_acc_noisy": accuracy(labels, everything),
            "train_acc_true": accuracy(true, everything),
            "train_acc_clean": accuracy(labels, ~changed),
            "train_acc_corrupted": accuracy(labels, changed),
        }
    )


def test_records_have_the_contracts_keys_in_order() -> None:
    keys = "epoch lr train_loss train_acc test_loss test_acc test_loss_noisy test_acc_noisy"
    keys += " train_acc_true train_acc_clean train_acc_corrupted seconds images_per_second"
    found = train_to_the_end(small_experiment())
    assert [list(record) for record in found] == [keys.split()] * 4
    assert [(record["epoch"], record["lr"]) for record in found] == [
        (0, 0.01),
        (1, 0.01),
        (2, pytest.approx(0.001)),
        (3, pytest.approx(0.001)),
    ]


WRN = {"name": "wrn", "depth": 10, "dropout": 0.2}
MODELS = [{"name": "mlp", "hidden": [16]}, WRN]


@pytest.mark.parametrize("model", MODELS, ids=["mlp", "wrn"])
def test_same_config_gives_the_same_numbers_whatever_the_global_generators(model: dict) -> None:
    torch.manual_seed(1)
    first = untimed(train_to_the_end(small_experiment(model=model)))
    torch.manual_seed(2)
    np.random.seed(2)
    assert untimed(train_to_the_end(small_experiment(model=model))) == first
    assert untimed(train_to_the_end(small_experiment(model=model, seed=1))) != first


STEPS = 10
"""Places in an epoch of `experiment` where a fit may be left: 7 steps, 2 + 1 batches evaluated."""


@pytest.mark.parametrize("model", MODELS, ids=["mlp", "wrn"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_fit_left_at_any_place_continues_bit_for_bit(
    model: dict, optimizer: str, tmp_path: Path
) -> None:
    """A checkpoint is tried at each step, and in the middle of evaluations."""
    keys = {"model": model, "optimizer": {"name": optimizer}, "augment": {"name": "crop_flip"}}
    build = partial(small_experiment, epochs=2, **keys)
    final = fit.start(build(), CPU)
    list(fit.sgd(build(), final, CPU))
    stops = itertools.cycle(range(1, STEPS))
    resumed, places = left_at(stops, build, tmp_path / "c.pt")
    assert {(0, 1), (0, 3), (0, 6), (0, 7), (1, 2), (1, 7)} <= places  # 7: while evaluating
    assert untimed(resumed.records) == untimed(final.records)
    for key, value in final.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value)


def test_every_image_is_used_once_an_epoch_the_last_small_batch_included() -> None:
    built = small_experiment(dataset={"name": "digits", "train_size": 70}, epochs=1)
    sizes = []
    built.model.register_forward_pre_hook(
        lambda module, inputs: sizes.append(len(inputs[0])) if module.training else None
    )
    train_to_the_end(built)
    assert sizes == [32, 32, 6]


def test_evaluation_does_not_change_the_fit_and_may_be_rarer() -> None:
    every = train_to_the_end(small_experiment(epochs=5))
    rare = train_to_the_end(small_experiment(epochs=5, eval_every=2))
    assert [record["train_acc"] is not None for record in rare] == [False, True, False, True, True]
    for i in (1, 3, 4):
        assert untimed([rare[i]]) == untimed([every[i]])


def test_infinite_loss_ends_the_fit_as_diverged_with_finite_records_only() -> None:
    built = small_experiment(optimizer={"lr": 1e8}, epochs=10)
    state = fit.start(built, CPU)
    found = list(fit.sgd(built, state, CPU))
    assert state.diverged_at == len(found) == state.epoch < 10
    assert all(math.isfinite(v) for record in found for v in record.values() if v is not None)


def test_nan_in_a_single_step_is_noticed() -> None:
    built = small_experiment(epochs=2)
    state = fit.start(built, CPU)
    steps = 0

    def poison() -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            with torch.no_grad():
                next(state.model.parameters())[0, 0] = math.nan

    assert list(fit.sgd(built, state, CPU, tick=poison)) == []
    assert state.diverged_at == 0


def test_bf16_keeps_losses_and_weights_in_fp32() -> None:
    built = small_experiment(precision="bf16")
    resources = Resources(device="cpu", precision="bf16", threads=1)
    state = fit.start(built, resources)
    in_bf16 = untimed(list(fit.sgd(built, state, resources)))
    in_fp32 = untimed(train_to_the_end(small_experiment()))
    assert all(p.dtype == torch.float32 for p in state.model.parameters())
    assert in_bf16 != in_fp32
    for low, high in zip(in_bf16, in_fp32, strict=True):
        assert low["train_loss"] == pytest.approx(high["train_loss"], rel=0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile's own
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_compiled_steps_compute_the_same_up_to_rounding() -> None:
    compiled = Resources(device="cpu", precision="fp32", threads=1, compile=True)
    state = fit.start(small_experiment(), compiled)
    found = untimed(list(fit.sgd(small_experiment(), state, compiled)))
    for ours, theirs in zip(found, untimed(train_to_the_end(small_experiment())), strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0  # they were compiled


@pytest.mark.slow
def test_compiled_network_is_one_graph() -> None:
    """torch.compile needs no fallback to Python between two layers."""
    network = wrn.WRN(depth=10).build((3, 32, 32), 10, torch.Generator())
    x = torch.zeros(32, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch._dynamo.explain(network.to(memory_format=torch.channels_last))(x)
    assert found.graph_break_count == 0 and found.graph_count == 1

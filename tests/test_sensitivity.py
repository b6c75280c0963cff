"""Loss sensitivity and critical samples: linear models by hand, and what they leave untouched."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import collect
from randlabels import fit, sensitivity
from randlabels.config import parse
from randlabels.experiment import Experiment, assemble
from randlabels.machine.resources import Resources
from randlabels.randomness import generator
from randlabels.registry import options
from randlabels.store.metrics import KEYS, SENSITIVITY

from .conftest import BASIC, CPU, TINY, Cli, left_at, only_run, untimed, untimed_lines

WATCHED = 8


def small_experiment(**keys: Any) -> Experiment:
    small = {
        "dataset": {"name": "digits", "train_size": 40, "test_size": 20},
        "model": {"name": "linear"},
        "preprocess": {"name": "scale"},
        "corrupt": 0.5,
        "epochs": 3,
        "batch_size": 16,
        "sensitivity": WATCHED,
    }
    return assemble(parse({**small, **keys}))


# Against references


def test_loss_sensitivity_of_a_linear_model_is_the_gradient_by_hand() -> None:
    """With softmax p, one-hot y and weights W, ∂L/∂x = Wᵀ(p - y); averaged over the epochs."""
    built = small_experiment()
    state = fit.start(built, CPU)
    chosen = torch.randperm(40, generator=generator("sensitivity", 0))[:WATCHED]
    x = built.train.images[chosen].double().flatten(1).numpy() / 255
    y = np.eye(10)[built.train.labels[chosen].numpy()]
    gradients = []
    for epoch, record in enumerate(fit.sgd(built, state, CPU)):
        weights = {k: v.double().numpy() for k, v in state.model.state_dict().items()}
        (w,), (b,) = ([v for v in weights.values() if v.ndim == n] for n in (2, 1))
        scores = np.exp(x @ w.T + b)
        gradients.append(np.abs((scores / scores.sum(1, keepdims=True) - y) @ w).sum(1))
        mean = np.mean(gradients, axis=0)
        assert len(gradients) == epoch + 1
        assert record["loss_sensitivity"] == pytest.approx(mean.mean(), rel=1e-5)
        between = np.abs(mean[:, None] - mean).sum() / (2 * WATCHED**2 * mean.mean())
        assert record["loss_sensitivity_gini"] == pytest.approx(between, rel=1e-4)


@pytest.mark.parametrize("sharpness", [1.0, 1e6], ids=["unsure", "sure"])
def test_critical_samples_are_those_nearer_to_the_boundary_than_the_box_reaches(
    sharpness: float,
) -> None:
    """Two classes, decided by the sign of w·x + b: from a box of radius r around each pixel, the
    boundary is reached if |w·x + b| is at most r·‖w‖₁. The last case is one of a network so sure
    that its cross-entropy is 0."""
    rng = torch.Generator().manual_seed(0)
    w = torch.randn(1 * 6 * 6, generator=rng)
    reach = sensitivity.RADIUS * w.abs().sum()
    share = torch.tensor([-1.01, -0.7, -0.1, 0.1, 0.7, 1.01, 30.0])
    images = 100 + torch.randn(len(share), 36, generator=rng)
    images += ((share * reach - images @ w) / (w @ w))[:, None] * w  # now w·x is share · reach

    def logits(x: torch.Tensor) -> torch.Tensor:
        score = sharpness * (x.flatten(1) @ w)
        return torch.stack([score, -score], 1)

    found = sensitivity.critical(logits, images.reshape(-1, 1, 6, 6), rng)
    assert found.tolist() == [False, True, True, True, True, False, False]


def test_search_stays_in_the_box_and_gives_up_after_a_hundred_steps() -> None:
    images = 255 * torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    seen = []

    def logits(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach().clone())
        return torch.stack([x.sum((1, 2, 3)), torch.zeros(len(x))], 1)

    found = sensitivity.critical(logits, images, torch.Generator().manual_seed(2))
    assert not found.any() and len(seen) == 102  # once to predict, then before and after each step
    moved = torch.stack(seen) - images
    assert moved.abs().max() == pytest.approx(sensitivity.RADIUS, abs=1e-4)
    assert moved[:2].abs().max() == 0 and moved[2:].mean() < -0.2  # towards the other class


def test_each_image_is_judged_by_itself() -> None:
    """A mixture of images that are found early, late and never: as each alone."""
    built = small_experiment(model={"name": "mlp", "hidden": [32]}, epochs=3)
    state = fit.start(built, CPU)
    list(fit.sgd(built, state, CPU))
    model = state.model.eval()
    images = built.train.images.float()

    def logits(x: torch.Tensor) -> torch.Tensor:
        return model(x / 20)  # so that a step of one pixel counts

    together = sensitivity.critical(logits, images, torch.Generator().manual_seed(0))
    alone = [
        sensitivity.critical(logits, images[i : i + 1], torch.Generator().manual_seed(i)).item()
        for i in range(len(images))
    ]
    assert 0 < together.sum() < len(images)
    assert (together != torch.tensor(alone)).sum() <= 1  # the noise is another


@pytest.mark.parametrize(
    ("values", "coefficient"),
    [([3.0] * 5, 0.0), ([0.0, 0.0, 0.0, 7.0], 0.75), ([1.0, 3.0], 0.25), ([0.0, 0.0], 0.0)],
    ids=str,
)
def test_gini_coefficient(values: list[float], coefficient: float) -> None:
    assert sensitivity.gini(torch.tensor(values)) == pytest.approx(coefficient)


@pytest.mark.parametrize("name", options("preprocess"))
def test_preprocessing_has_the_gradient_of_finite_differences(name: str) -> None:
    """This includes code that works in place, and an image of constant grey."""
    preprocess = options("preprocess")[name]()
    moments = (torch.tensor([100.0]).double(), torch.tensor([50.0]).double())
    rng = torch.Generator().manual_seed(0)
    images = 255 * torch.rand(2, 1, 28, 28, dtype=torch.float64, generator=rng)
    images[1] = 128.0
    direction = torch.randn(images.shape, dtype=torch.float64, generator=rng)

    def seen(x: torch.Tensor) -> torch.Tensor:
        return (preprocess(x.clone(), moments) * weights).sum((1, 2, 3))

    weights = torch.randn(images.shape, dtype=torch.float64, generator=rng)
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(seen(x).sum(), x)
    step = 1e-4
    slope = (seen(images + step * direction) - seen(images - step * direction)) / (2 * step)
    assert (gradient * direction).sum((1, 2, 3)).tolist() == pytest.approx(slope.tolist(), rel=1e-5)


# What it leaves alone, and survives

WRN = {"name": "wrn", "depth": 10, "dropout": 0.2}
AUGMENTED = {"model": WRN, "augment": {"name": "crop_flip"}, "preprocess": {"name": "standardize"}}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_other_number_changes(precision: str) -> None:
    resources = Resources("cpu", precision, 1)
    found = {}
    for number in (0, WATCHED):
        built = small_experiment(**AUGMENTED, sensitivity=number)
        found[number] = list(fit.sgd(built, fit.start(built, resources), resources))
    assert untimed(found[WATCHED], *SENSITIVITY) == untimed(found[0])
    assert [list(record) for record in found[0]] == [list(KEYS)] * 3
    assert [list(record) for record in found[WATCHED]] == [[*KEYS, *SENSITIVITY]] * 3


def test_fit_left_in_the_middle_of_a_search_goes_on_bit_for_bit(tmp_path: Path) -> None:
    build = partial(small_experiment, **AUGMENTED)
    whole = build()
    expected = list(fit.sgd(whole, fit.start(whole, CPU), CPU))
    state, places = left_at((4, 30, 90, 150, 1000), build, tmp_path / "c.pt")
    assert len(places) > 1
    assert untimed(state.records) == untimed(expected)


def test_epochs_without_evaluation_have_none_and_count_in_no_mean() -> None:
    every, rare = small_experiment(epochs=4), small_experiment(epochs=4, eval_every=4)
    often = list(fit.sgd(every, fit.start(every, CPU), CPU))
    seldom = list(fit.sgd(rare, fit.start(rare, CPU), CPU))
    assert [record["loss_sensitivity"] for record in seldom[:3]] == [None] * 3
    sums = [record["loss_sensitivity"] * (i + 1) for i, record in enumerate(often)]
    assert seldom[3]["loss_sensitivity"] == pytest.approx(sums[3] - sums[2])
    assert seldom[3]["critical_sample_ratio"] == often[3]["critical_sample_ratio"]


def test_more_images_than_there_are_means_all_of_them() -> None:
    some, more = (
        list(fit.sgd(built, fit.start(built, CPU), CPU))
        for built in (small_experiment(sensitivity=40), small_experiment(sensitivity=1000))
    )
    assert untimed(some) == untimed(more)


def test_columns_are_there_only_if_some_run_has_them(cli: Cli, tmp_path: Path) -> None:
    assert cli(*TINY).code == 0
    off = only_run(tmp_path)
    assert list(json.loads((off / "metrics.jsonl").read_text().splitlines()[0])) == list(KEYS)
    runs = tmp_path / "runs" / "default"
    collect.main([str(runs)])
    before = pd.read_csv(runs / "summary" / "epochs.csv")
    assert list(before.columns)[-len(KEYS) :] == list(KEYS)
    plain = untimed_lines(off)

    assert cli("-m", *TINY, "sensitivity=0,5", BASIC).code == 0
    assert untimed_lines(off) == plain
    collect.main([str(runs)])
    after = pd.read_csv(runs / "summary" / "epochs.csv")
    assert list(after.columns)[-len(KEYS) - 3 :] == [*KEYS, *SENSITIVITY]
    assert "sensitivity" in after.columns
    on = after["sensitivity"] == 5
    assert after.loc[on, list(SENSITIVITY)].notna().all(axis=None) and on.sum() == 2
    assert after.loc[~on, list(SENSITIVITY)].isna().all(axis=None)
    record = json.loads(next(runs.glob("*/metrics.jsonl")).read_text().splitlines()[0])
    parquet = pd.read_parquet(runs / "summary" / "epochs.parquet")
    pd.testing.assert_frame_equal(after, parquet, check_dtype=False)
    assert record["epoch"] == 0


def test_negative_number_and_exact_fits_are_refused_in_a_sentence(cli: Cli) -> None:
    outcome = cli(*TINY, "sensitivity=-1")
    assert outcome.code == 1 and outcome.err.strip() == (
        "Error: sensitivity=-1 must be 0 or more training images"
    )
    outcome = cli("dataset=digits", "model=kernel", "sensitivity=5")
    assert outcome.code == 1
    assert "sensitivity=5 has no meaning for model=kernel, which is solved and not" in outcome.err

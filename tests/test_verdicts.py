"""The rule by which a number of ours agrees with a published one or differs from it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import published

SEED, PAPER, NOISE = map(published.read, ["seed", "paper", "noise"])

EVERY_NUMBER = [
    number
    for table in (SEED, PAPER, NOISE)
    for number in table.dropna(subset="value").itertuples()
    if number.metric != "relative" or number.corrupt > 0
]


def verdict(number: Any, values: list[float]) -> str:
    deviation = np.std(values, ddof=1) if len(values) > 1 else math.nan
    return published.judge(number, published.Ours(np.mean(values), deviation, len(values)), 0)


def agreeing_samples(number: Any, wrong: float) -> list[list[float]]:
    """Return the samples around a wrong value that agree with the number: of 1 to 10 runs, equal,
    scattered a little, and so widely that the published value is among them."""
    found = []
    for n, deviation in itertools.product([1, 2, 3, 10], [0.0, 0.001, 0.01, 0.1, 0.5]):
        steps = np.linspace(-1, 1, n) if n > 1 else np.zeros(1)
        sample = (wrong + deviation * max(1, abs(wrong)) * steps).tolist()
        if verdict(number, sample) == "agrees":
            found.append(sample)
    return found


def is_share(number: Any) -> bool:
    return "acc" in number.metric or "error" in number.metric


def is_accuracy(number: Any) -> bool:
    return "acc" in number.metric


def clearly_apart(number: Any, other: float) -> bool:
    """A reader would not call one of the numbers the other: not within 2 points and half of the
    error, or 30 % of a loss, a norm or a ratio."""
    difference = abs(number.value - other)
    if is_share(number):
        smaller = min(number.value, 1 - number.value, other, 1 - other)
        return difference > 0.02 + number_uncertainty(number) + 0.5 * min(smaller, 0.05)
    return difference > 0.3 * number.value + number_uncertainty(number)


def number_uncertainty(number: Any) -> float:
    return 0.0 if pd.isna(number.uncertainty) else number.uncertainty


def test_chance_never_agrees_with_a_number_above_it() -> None:
    tried = 0
    for number in EVERY_NUMBER:
        chance = 0.1 if is_accuracy(number) else 0.9 if is_share(number) else math.log(10)
        if number.metric in ("norm", "relative") or not clearly_apart(number, chance):
            continue
        tried += 1
        assert agreeing_samples(number, chance) == [], number
    assert tried > 200


def test_half_the_accuracy_never_agrees() -> None:
    """Nor does half or twice a loss, a norm or a ratio."""
    for number in EVERY_NUMBER:
        if is_share(number):
            accuracy = number.value if is_accuracy(number) else 1 - number.value
            wrong = [accuracy / 2 if is_accuracy(number) else 1 - accuracy / 2]
        else:
            wrong = [2 * number.value, number.value / 2]
        for value in wrong:
            if abs(value - number.value) > number_uncertainty(number) + 1e-3:
                assert agreeing_samples(number, value) == [], number


@pytest.mark.slow
def test_value_of_another_row_never_agrees() -> None:
    tried = 0
    for number in EVERY_NUMBER:
        others = {other.value for other in EVERY_NUMBER if other.metric == number.metric}
        for value in sorted(others):
            if clearly_apart(number, value):
                tried += 1
                assert verdict(number, [value]) != "agrees", number
                assert verdict(number, [0.99 * value, value, 1.01 * value]) != "agrees", number
    assert tried > 5000


def test_published_number_agrees_with_itself() -> None:
    """It also agrees with runs that differ by a tenth of a point, or by a hundredth of a loss."""
    for number in EVERY_NUMBER:
        step = 0.001 if is_share(number) else 0.01 * number.value
        assert verdict(number, [number.value]) == "agrees"
        assert verdict(number, [number.value - step, number.value, number.value + step]) == "agrees"


def published_number(metric: str, value: float, uncertainty: float = math.nan) -> Any:
    dataset = "mnist" if metric == "test_error" else "cifar10"
    return SimpleNamespace(
        metric=metric, value=value, uncertainty=uncertainty, dataset=dataset, corrupt=0.5
    )


def test_verdicts_are_the_stated_rule() -> None:
    """The numbers are those of tables: 1.96·√(p(1-p)/10,000), and Student's t for 2 runs more."""
    half = published_number("test_acc", 0.5)
    assert published.measurement_error(half) == pytest.approx(0.0098, abs=1e-4)
    three = published.Ours(0.5, 0.004, 3)
    assert published.seed_error(three) == pytest.approx(4.3027 * 0.004 * math.sqrt(4 / 3), rel=1e-4)
    for number, values, expected in [
        (half, [0.509], "agrees"),  # within the binomial error
        (half, [0.515], "too few runs"),
        (half, [0.54], "differs"),
        (half, [0.515, 0.519, 0.511], "agrees"),  # the deviation is known, and small
        (half, [0.54, 0.541, 0.539], "differs"),
        (half, [0.4, 0.5, 0.6], "too few runs"),
        (
            published_number("test_error", 0.006),
            [0.0122],
            "differs",
        ),  # the kernel of other features
        (published_number("train_acc", 1.0), [0.10, 0.10, 0.99], "too few runs"),
        (published_number("train_loss", 0.0004), [0.01], "differs"),
        (published_number("train_loss", 0.0004), [0.00044], "agrees"),  # it has four decimals
        (published_number("train_loss", 1.0, 0.08), [1.07], "agrees"),  # read off a figure
        (published_number("relative", 1.23), [1.0], "too few runs"),
        (published_number("relative", 1.23), [1.0, 1.01, 0.99], "differs"),
    ]:
        assert verdict(number, values) == expected, (number, values)


@pytest.mark.parametrize("target", published.TARGETS)
def test_stored_verdicts_are_those_of_the_rule(target: str) -> None:
    file = Path(published.__file__).parent / "results" / f"{target}.csv"
    stored = pd.read_csv(file, dtype={"epoch": str})
    keys = ["source", "row", "metric", "epoch"]
    numbers = stored[keys].merge(published.read(target), on=keys, validate="one_to_one")
    ours = map(published.Ours, stored["ours"], stored["sd"], stored["n"])
    pairs = zip(numbers.itertuples(index=False), ours, strict=True)
    found = [published.judge(number, mine, 0) for number, mine in pairs]
    assert found == stored["verdict"].tolist()

"""The verdict on a published number: whether our runs agree with it.

`docs/metrics.md` explains the rule. `python -m analysis.verdicts` applies it again to the numbers
that are stored in `analysis/results`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from scipy.special import stdtrit

from randlabels.store.metrics import LOSSES

from . import published
from .rows import SOLUTION

RESULTS = Path(__file__).parent / "results"  # our numbers by target, each the mean of `n` runs

# Training and test images. Published experiments use all, except double descent: losses only.
SET_SIZES = {
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "mnist": (60_000, 10_000),
    "fashion_mnist": (60_000, 10_000),
    "svhn": (73_257, 26_032),
    "digits": (1_442, 355),
}

CONFIDENCE = 0.95  # of the interval around our mean in which a published number agrees
SMALLEST_ACCURACY_STEP = 0.001  # differences of accuracies and errors up to this agree
RELATIVE_STEP = 0.05  # the same for losses, norms and ratios, as a share of the number
ROUNDING = 5e-5  # half of the last digit that the sources print

# Above these, an interval is too wide to call a number reproduced. For accuracies and errors, the
# relative one is of the error or of the accuracy, whichever is smaller.
LARGEST_ACCURACY_TOLERANCE = 0.03
LARGEST_RELATIVE_TOLERANCE = 0.25


class Ours(NamedTuple):
    """Our number: mean and sample deviation over n runs; NaN where unknown."""

    mean: float
    deviation: float
    n: int


def judge(number: Any, ours: Ours, diverged: int) -> str:
    """Return the verdict on a published number."""
    if pd.isna(number.value):  # training failed to converge
        return "missing" if not ours.n + diverged else "differs" if ours.n else "agrees"
    if diverged:
        return "diverged"
    if not ours.n:
        return "missing"
    if pd.isna(ours.mean):
        return "not fitted"
    if number.metric == "relative" and number.corrupt == 0:
        return "reference"
    difference = abs(ours.mean - number.value)
    error, ceiling = measurement_error(number), largest_tolerance(number)
    if ours.n == 1 or pd.isna(ours.deviation):
        if difference <= error:
            return "agrees"
        return "differs" if difference > ceiling else "too few runs"
    interval = math.hypot(error, seed_error(ours))
    if difference > interval:
        return "differs"
    if interval <= ceiling or (difference <= error and ours.deviation <= ceiling):
        return "agrees"
    return "too few runs"


def measurement_error(number: Any) -> float:
    """Return the largest difference that agrees with any deviation over seeds.

    For accuracies and errors, the binomial error of the set and that of reading a figure.
    """
    reading = 0.0 if pd.isna(number.uncertainty) else number.uncertainty
    if _is_share(number.metric):
        train_size, test_size = SET_SIZES[number.dataset]
        test_size = getattr(number, "test_size", test_size)  # of a subset
        size = train_size if number.metric.startswith("train") else test_size
        share = (number.value * size + 2) / (size + 4)  # Agresti & Coull 1998, for shares near 0, 1
        binomial = 1.96 * math.sqrt(share * (1 - share) / size)
        return max(math.hypot(binomial, reading), SMALLEST_ACCURACY_STEP) + ROUNDING
    return max(reading, RELATIVE_STEP * number.value) + ROUNDING


def seed_error(ours: Ours) -> float:
    """Return the half width of the interval for one more run, from the deviation over n runs."""
    quantile = float(stdtrit(ours.n - 1, 0.5 + CONFIDENCE / 2))
    return quantile * ours.deviation * math.sqrt(1 + 1 / ours.n)


def largest_tolerance(number: Any) -> float:
    """Return the half width of an interval above which it is too wide to tell."""
    tolerance = LARGEST_RELATIVE_TOLERANCE * number.value
    if _is_share(number.metric):
        smaller = min(number.value, 1 - number.value)
        tolerance = min(LARGEST_ACCURACY_TOLERANCE, LARGEST_RELATIVE_TOLERANCE * smaller)
    return max(tolerance, measurement_error(number))


def _is_share(metric: str) -> bool:
    return metric not in (*LOSSES, *SOLUTION, "relative")


def judge_stored(target: str) -> pd.DataFrame:
    """Return our stored numbers of a target with the verdicts of this rule."""
    stored = pd.read_csv(RESULTS / f"{target}.csv", dtype={"epoch": str})
    keys = ["source", "row", "metric", "epoch"]
    numbers = stored[keys].merge(published.read(target), on=keys, validate="one_to_one")
    ours = [Ours(*values) for values in stored[["ours", "sd", "n"]].itertuples(index=False)]
    pairs = zip(numbers.itertuples(index=False), ours, strict=True)
    return stored.assign(verdict=[judge(number, mine, 0) for number, mine in pairs])


if __name__ == "__main__":
    for target in published.targets():
        judge_stored(target).to_csv(RESULTS / f"{target}.csv", index=False)

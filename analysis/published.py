"""Published numbers: which runs have the config keys of their experiments, and whether they agree.

`docs/metrics.md` explains the rule of the verdicts.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml
from scipy.special import stdtrit

from randlabels.store.metrics import LOSSES
from randlabels.store.rundir import FINISHED

from .rows import SOLUTION

FOLDER = Path(__file__).parent / "published"
"""experiments.csv holds the config keys of each experiment: those of the experiment in `like`, then
its own. One more file per target holds its numbers. Its columns are source, row, experiment,
corrupt, metric, epoch (0-based, or `last`), value (empty where training failed to converge),
uncertainty (of reading a figure, or of a mean), fit_threshold, chosen (a setting chosen to match
this row), and note."""

TARGETS = sorted(file.stem for file in FOLDER.glob("*.csv") if file.stem != "experiments")

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


def read(target: str) -> pd.DataFrame:
    """Return the numbers of a target with their `keys`, `dataset` and notes.

    `keys` is `key=value` separated by spaces, and contains `dataset`.
    """
    experiments = pd.read_csv(FOLDER / "experiments.csv", keep_default_na=False)
    keys: dict[str, dict[str, str]] = {"": {}}
    notes: dict[str, list[str]] = {"": []}
    for name, like, own, note in experiments.values.tolist():  # `like` is above
        keys[name] = keys[like] | dict(pair.split("=", 1) for pair in own.split())
        notes[name] = [*notes[like], note]
    texts = {"epoch": str, "chosen": object, "note": object}
    numbers = pd.read_csv(FOLDER / f"{target}.csv", dtype=texts)
    numbers = numbers.fillna({"chosen": "", "note": ""})
    wanted, all_notes = [], []
    for number in numbers.to_dict("records"):
        chosen = keys[number["experiment"]] | {"corrupt": number["corrupt"]}
        if number["metric"] == "relative":
            chosen["eval_every"] = "1"  # the resolution of a time to fit
        wanted.append(" ".join(f"{key}={value}" for key, value in chosen.items()))
        all_notes.append("; ".join(filter(None, [number["note"], *notes[number["experiment"]]])))
    datasets = numbers["experiment"].map(lambda experiment: keys[experiment]["dataset"])
    return numbers.assign(keys=wanted, note=all_notes, dataset=datasets)


def covering(runs: pd.DataFrame, keys: str) -> pd.Series:
    """Return which runs (N,) bool are finished and have all `keys`, as `read` returns them."""
    fits = runs["state"].isin(FINISHED)
    for key, value in (pair.split("=", 1) for pair in keys.split()):
        if key not in runs or not fits.any():
            return fits & False
        fits &= runs[key].map(_canonical) == _canonical(yaml.safe_load(value))
    return fits


def _canonical(value: Any) -> str:
    """Return one text for values that mean the same: 1 and 1.0, null and missing."""
    if isinstance(value, bool | list):
        return str(value)
    if pd.isna(value):
        return "null"
    try:
        return repr(float(value))
    except ValueError:
        return str(value)


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

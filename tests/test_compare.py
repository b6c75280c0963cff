"""`analysis.compare`: which runs cover a published number, the verdicts, the published data."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import compare, published
from analysis.collect import collect

from .synthetic import OTHER_METRICS, write_run

SEED, PAPER, NOISE = map(published.read, ["seed", "paper", "noise"])
CIFAR = {"dataset": {"name": "cifar10"}}
FIGURE_1 = {
    **CIFAR,
    "model": {"name": "mlp", "hidden": [512], "bias": True},
    "schedule": {"name": "exponential"},
    "optimizer": {"weight_decay": 0.0},
}
"""The MLP 1x512 of Figures 1b and 1c, but for the preprocessing."""


def compared(root: Path, numbers: pd.DataFrame) -> pd.DataFrame:
    found, _ = collect(root)
    return compare.compare(found, numbers)


def test_published_numbers_are_complete() -> None:
    """The sources have as many numbers: 53 lines of logs, 19 rows of Table 1, and so on."""
    assert SEED["row"].value_counts().to_dict() == {
        "WRN-28-1, true labels": 4 * 14,
        "WRN-28-1, random labels": 4 * 24,
        "MLP 512, random labels": 4 * 15,
        "Kernel, MNIST": 1,
        "Polynomial kernel of degree 4, MNIST": 1,
        "Polynomial kernel of degree 5, MNIST": 1,
    }
    assert PAPER["source"].value_counts().to_dict() == {
        "Table 1": 2 * 19,
        "Table 3": 4,
        "Table 3, text": 1,
        "Section 5, text": 2,
        "Table 4": 6,
        "Figure 1a": 57,
        "Figure 1b": 33,
        "Figure 1c": 33,
    }
    assert NOISE["source"].value_counts().to_dict() == {
        "dmizr/phuber, README": 12,
        "josch14/double-descent": 3 * 58,
    }
    for numbers in (SEED, PAPER, NOISE):
        assert not numbers.duplicated(["row", "metric", "epoch", "source"]).any()
        failed = numbers["note"].str.contains("failed to converge")
        assert numbers["value"].isna().tolist() == failed.tolist()


def test_keys_of_an_experiment_are_those_it_builds_on_and_its_own() -> None:
    named = PAPER["row"] == "Inception, random crop, weight decay"
    chosen = named & (PAPER["source"] == "Table 1") & (PAPER["metric"] == "test_acc")
    crop = PAPER[chosen].iloc[0]
    keys = dict(pair.split("=") for pair in crop["keys"].split())
    assert (keys["model"], keys["augment"]) == ("inception", "random_crop")
    assert (keys["optimizer.weight_decay"], keys["epochs"]) == ("0.0005", "64")
    assert "corrupt=0.0" in crop["keys"] and "eval_every" not in keys
    assert crop["note"].startswith("64 epochs") and "weight decay coefficient" in crop["note"]
    misread = PAPER["note"].str.contains("probably misread")
    assert PAPER.loc[misread, ["row", "value"]].values.tolist() == [
        ["MLP 1x512, corrupt 0.6", 0.865]
    ]


README_LOGS = {
    # original README: train_acc, test_acc_noisy in %, train_loss, test_loss_noisy
    ("WRN-28-1, true labels", 0): (58.49, 56.92, 1.1574, 1.1857),
    ("WRN-28-1, true labels", 149): (94.11, 80.31, 0.1755, 0.9136),
    ("WRN-28-1, true labels", 150): (99.97, 85.87, 0.0061, 0.5876),
    ("WRN-28-1, true labels", 299): (100.00, 86.41, 0.0004, 0.5636),
    ("WRN-28-1, random labels", 0): (10.30, 9.91, 2.3105, 2.3129),
    ("WRN-28-1, random labels", 149): (77.35, 9.75, 0.6599, 5.4791),
    ("WRN-28-1, random labels", 150): (99.00, 9.90, 0.0809, 5.5166),
    ("WRN-28-1, random labels", 299): (100.00, 9.99, 0.0008, 7.7216),
    ("MLP 512, random labels", 0): (12.59, 10.15, 2.3094, 2.3680),
    ("MLP 512, random labels", 224): (99.96, 9.57, 0.0142, 10.3074),
    ("MLP 512, random labels", 299): (99.97, 9.57, 0.0134, 10.3347),
}

TABLE_1 = {
    # Zhang et al. 2017, Table 1: train and test accuracy in %
    "Inception, random crop, weight decay": (100.0, 89.05),
    "Inception, random crop": (100.0, 89.31),
    "Inception, weight decay": (100.0, 86.03),
    "Inception": (100.0, 85.75),
    "Inception, random labels": (100.0, 9.78),
    "Inception w/o BatchNorm, weight decay": (100.0, 83.00),
    "Inception w/o BatchNorm": (100.0, 82.00),
    "Inception w/o BatchNorm, random labels": (100.0, 10.12),
    "Alexnet, random crop, weight decay": (99.90, 81.22),
    "Alexnet, random crop": (99.82, 79.66),
    "Alexnet, weight decay": (100.0, 77.36),
    "Alexnet": (100.0, 76.07),
    "Alexnet, random labels": (99.82, 9.86),
    "MLP 3x512, weight decay": (100.0, 53.35),
    "MLP 3x512": (100.0, 52.39),
    "MLP 3x512, random labels": (100.0, 10.48),
    "MLP 1x512, weight decay": (99.80, 50.39),
    "MLP 1x512": (100.0, 50.51),
    "MLP 1x512, random labels": (99.34, 10.61),
}

ROBUST_LOSSES = {
    # dmizr/phuber's README, MNIST with LeNet-5: test accuracy in % at 0, 0.2, 0.4, 0.6
    "CE": [99.1, 98.8, 98.6, 98.0],
    "GCE": [98.8, 98.7, 98.5, 98.1],
    "PHuber-CE": [99.0, 98.8, 98.5, 97.6],
}

DOUBLE_DESCENT = {
    # josch14/double-descent, noise: test loss at widths 20, 50 and 150
    0.0: [0.063, 0.062, 0.030],
    0.1: [0.077, 0.089, 0.055],
    0.2: [0.091, 0.119, 0.070],
}

SUMS = {
    # of the values of each table, or of each curve of a figure, added up by hand
    "Table 3": 0.012 + 0.006 + 0.46 + 0.17,
    "Table 3, text": 0.15,
    "Section 5, text": 220 + 390,
    "Table 4": 1.0 + 1.0 + 0.9921 + 0.9993 + 0.9928,
    "Figure 1a": 1.805 + 4.43 + 13.39 + 14.92 + 23.45,
    "Figure 1b": 27.5 + 13.99 + 18.54,
    "Figure 1c": 6.985 + 7.65 + 8.415,
}


def test_published_numbers_are_those_of_their_sources() -> None:
    metrics = ["train_acc", "test_acc_noisy", "train_loss", "test_loss_noisy"]
    logs = SEED.astype({"epoch": str}).set_index(["row", "epoch", "metric"])["value"]
    for (row, epoch), values in README_LOGS.items():
        found = [logs[row, str(epoch), metric] for metric in metrics]
        assert found == pytest.approx([values[0] / 100, values[1] / 100, *values[2:]])
    table = PAPER[PAPER["source"] == "Table 1"].pivot(index="row", columns="metric", values="value")
    assert sorted(table.index) == sorted(TABLE_1)
    for row, accuracies in TABLE_1.items():
        found = 100 * table.loc[row, ["train_acc", "test_acc"]]
        assert found.tolist() == pytest.approx(accuracies)
    robust = NOISE.set_index("row")["value"]
    for loss, accuracies in ROBUST_LOSSES.items():
        rows = [f"MNIST, LeNet, {loss}, corrupt {level}" for level in (0.0, 0.2, 0.4, 0.6)]
        assert (100 * robust[rows]).tolist() == pytest.approx(accuracies)
    peaks = [robust.filter(like=f"noise {noise}").idxmax() for noise in (0.1, 0.2)]
    assert peaks == ["double descent, width 49, noise 0.1", "double descent, width 55, noise 0.2"]
    for noise, losses in DOUBLE_DESCENT.items():
        rows = [f"double descent, width {width}, noise {noise}" for width in (20, 50, 150)]
        assert robust[rows].tolist() == pytest.approx(losses, abs=0.001)
    sums = PAPER.groupby("source")["value"].sum()
    assert sums.drop("Table 1").to_dict() == pytest.approx(SUMS)


def test_anchors_of_the_kernel_are_those_of_their_sources() -> None:
    errors = SEED[SEED["metric"] == "test_error"]
    assert errors["value"].tolist() == [0.0122, 0.0118, 0.0113]


@pytest.mark.slow
def test_only_runs_with_every_key_equal_cover_a_number(tmp_path: Path) -> None:
    """300 epochs of the MLP on random labels, whole CIFAR-10; subsets and variants do not."""
    curve = [0.1] * 299 + [0.9997]
    keys = {**CIFAR, "model": {"name": "mlp"}, "corrupt": 1.0}
    write_run(tmp_path, curve, **keys)
    write_run(tmp_path, curve, **keys, seed=1)
    write_run(tmp_path, curve, **keys, state="failed", seed=2)
    write_run(tmp_path, curve[1:], **keys)
    write_run(tmp_path, curve, **keys, batch_size=64)
    write_run(tmp_path, curve, **keys, optimizer={"lr": 0.1})
    write_run(tmp_path, curve, **{**keys, "corrupt": 0.9})
    write_run(tmp_path, curve, **{**keys, "model": {"name": "mlp", "hidden": [512, 512]}})
    write_run(tmp_path, curve, **{**keys, "dataset": {"name": "cifar10", "train_size": 5000}})
    write_run(tmp_path, curve, **{**keys, "preprocess": {"name": "scale"}})
    found = compared(tmp_path, SEED)
    covered = found[found["verdict"] != "missing"]
    assert covered["row"].unique().tolist() == ["MLP 512, random labels"]
    assert covered["n"].unique().tolist() == [2]
    last = covered[(covered["metric"] == "train_acc") & (covered["epoch"] == "299")].iloc[0]
    assert (last["published"], last["ours"], last["verdict"]) == (0.9997, 0.9997, "agrees")
    first = covered[(covered["metric"] == "train_acc") & (covered["epoch"] == "0")].iloc[0]
    assert first["difference"] == pytest.approx(0.1 - 0.1259) and first["verdict"] == "differs"


EVERY_NUMBER = [
    number
    for table in (SEED, PAPER, NOISE)
    for number in table.dropna(subset="value").itertuples()
    if number.metric != "relative" or number.corrupt > 0
]


def verdict(number: Any, values: list[float]) -> str:
    deviation = np.std(values, ddof=1) if len(values) > 1 else math.nan
    return published.judge(number, published.Ours(np.mean(values), deviation, len(values)), 0)


def agreeing(number: Any, wrong: float) -> list[list[float]]:
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
        assert agreeing(number, chance) == [], number
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
                assert agreeing(number, value) == [], number


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


@pytest.mark.slow
def test_diverged_runs_agree_only_with_a_failure_to_converge(tmp_path: Path) -> None:
    keys = {**CIFAR, "model": {"name": "mlp"}, "corrupt": 1.0}
    write_run(tmp_path, [0.5] * 300, **keys)
    write_run(tmp_path, [0.5], **{**keys, "epochs": 300}, state="diverged", seed=1)
    rows = SEED[SEED["row"] == "MLP 512, random labels"].head(1)
    (row,) = compared(tmp_path, rows).to_dict("records")
    assert (row["n"], row["n_diverged"], row["verdict"]) == (1, 1, "diverged")
    (tmp_path / "b").mkdir()
    write_run(tmp_path / "b", [0.5], **{**keys, "epochs": 300}, state="diverged", seed=1)
    assert compared(tmp_path / "b", rows)["verdict"].tolist() == ["diverged"]
    rows = rows.assign(value=math.nan)
    assert compared(tmp_path / "b", rows)["verdict"].tolist() == ["agrees"]
    assert compared(tmp_path, rows)["verdict"].tolist() == ["differs"]


def standardized(numbers: pd.DataFrame) -> pd.DataFrame:
    """The numbers of the MLP 1x512, as if published for the runs of `FIGURE_1`."""
    keys = numbers["keys"].str.replace("preprocess=paper", "preprocess=standardize")
    return numbers.assign(keys=keys)[numbers["row"].str.startswith("MLP 1x512")]


@pytest.mark.slow
def test_ratios_of_times_are_over_the_runs_on_true_labels(tmp_path: Path) -> None:
    """The threshold is 98 %, not that of the runs; the true labels have another corruption."""
    pair_flip = {"corruption": {"name": "pair_flip"}}
    for level, epochs, keys in ((0.0, (9, 10, 11), pair_flip), (0.5, (17, 18, 19), {})):
        for seed, epoch in enumerate(epochs):
            curve = [0.5] * (epoch - 1) + [0.985] * (65 - epoch)
            write_run(tmp_path, curve, **FIGURE_1, corrupt=level, seed=seed, **keys)
    numbers = standardized(PAPER[PAPER["source"].isin(["Figure 1b", "Figure 1c"])])
    found = compared(tmp_path, numbers).set_index("row")
    half = found.loc["MLP 1x512, corrupt 0.5"].set_index("metric")
    ratio = half.loc["relative"]
    assert ratio["ours"] == pytest.approx(18 / 10)
    assert ratio["sd"] == pytest.approx(1.8 * math.hypot(1 / 18, 1 / 10))
    assert (ratio["n"], ratio["chosen"]) == (3, "fit_threshold")
    assert ratio["verdict"] == "agrees", "within 5 % of 1.79"
    assert half.loc["test_error_noisy", "ours"] == pytest.approx(1 - OTHER_METRICS)
    on_true = numbers.assign(metric=numbers["metric"].replace("test_error_noisy", "test_error"))
    error = compared(tmp_path, on_true).set_index(["row", "metric"])
    error = error.loc[("MLP 1x512, corrupt 0.5", "test_error")]
    assert error["ours"] == pytest.approx(1 - (0.9 - 0.4 + 0.01))
    assert error["sd"] == pytest.approx(0.01)


@pytest.mark.slow
def test_time_to_fit_is_compared_only_at_full_resolution(tmp_path: Path) -> None:
    numbers = standardized(PAPER[PAPER["source"] == "Figure 1b"])
    write_run(tmp_path, [0.5] * 63 + [1.0], **FIGURE_1, corrupt=0.0, eval_every=2)
    assert set(compared(tmp_path, numbers)["verdict"]) == {"missing"}
    write_run(tmp_path, [0.5] * 63 + [1.0], **FIGURE_1, corrupt=0.0)
    assert compared(tmp_path, numbers)["verdict"].tolist().count("reference") == 1


def test_ratio_without_a_run_on_true_labels_is_missing_not_unfitted(tmp_path: Path) -> None:
    write_run(tmp_path, [0.5] * 63 + [1.0], **FIGURE_1, corrupt=0.5)
    rows = standardized(PAPER[PAPER["row"] == "MLP 1x512, corrupt 0.5"])
    rows = rows[rows["source"] == "Figure 1b"]
    assert compared(tmp_path, rows)["verdict"].tolist() == ["missing"]
    write_run(tmp_path, [0.5] * 64, **FIGURE_1, corrupt=0.0)
    assert compared(tmp_path, rows)["verdict"].tolist() == ["not fitted"]


@pytest.mark.slow
def test_command_prints_how_many_numbers_have_which_verdict(tmp_path: Path, capsys) -> None:
    """A setting that was chosen on a row is named there, and counted."""
    keys = {**FIGURE_1, "preprocess": {"name": "paper"}}
    for level, epoch in ((0.0, 10), (0.5, 18)):
        write_run(tmp_path, [0.5] * (epoch - 1) + [1.0] * (65 - epoch), **keys, corrupt=level)
    compare.main([str(tmp_path), "--to", "paper"])
    shown = capsys.readouterr().out
    assert (
        "Verdicts: 2 agree, 3 differ, 1 reference; of those that agree, 1 by a setting chosen"
        in shown
    )
    assert "agrees (fit_threshold chosen on this row)" in shown


@pytest.mark.slow
def test_command_lists_what_no_run_covers(tmp_path: Path, capsys) -> None:
    write_run(tmp_path, [0.1] * 300, **CIFAR, model={"name": "mlp"}, corrupt=1.0)
    compare.main([str(tmp_path), "--to", "seed"])
    shown = capsys.readouterr().out
    assert "60 of 215 published numbers have runs; none covers" in shown
    assert "original code, README: 152 numbers, such as WRN-28-1, true labels" in shown
    for ending in ("csv", "md", "tex"):
        assert (tmp_path / "summary" / f"compare_seed.{ending}").is_file()
    compare.main([str(tmp_path), "--to", "paper"])
    shown = capsys.readouterr().out
    assert shown.startswith("0 of 174 published numbers have runs"), "no table without rows"
    assert "Table 4: 6 numbers, such as Inception, weight decay, random labels" in shown


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

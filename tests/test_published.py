"""The published numbers: how many, with which keys, and equal to those of their sources."""

from __future__ import annotations

import pytest

from analysis import published

SEED, PAPER, NOISE = map(published.read, ["seed", "paper", "noise"])


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

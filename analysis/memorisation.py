"""What a network says of the changed labels: shares that follow from the logged accuracies."""

from __future__ import annotations

import pandas as pd

from .runs import Collection

SHARES = ("memorised", "true", "neither")
"""Of the changed labels among those trained on, predicted as the label trained on, as the true
one, or as another class; they sum to 1 (Liu et al. 2020, ELR, Figure 1)."""

DERIVED = (*SHARES, "generalization_gap")
"""Metrics that are not logged."""

DIGITS = 12
"""Decimals of a share that are kept, so that 0 is not -1e-17."""


def derive(found: Collection) -> pd.DataFrame:
    """Columns `run` (position in the table of runs), `epoch` and DERIVED, of all records.

    Of the images whose label was not changed, those predicted as their label are predicted as the
    true class. With s the share of changed labels, train_acc_true is therefore
    (1 - s)·train_acc_clean + s·true. Where no label was changed, the shares are NaN.
    """
    logged = [
        "train_acc",
        "test_acc",
        *(f"train_acc_{part}" for part in ("true", "clean", "corrupted")),
    ]
    records = found.epochs.read(*logged)
    changed = share_changed(found.runs).to_numpy()[records["run"]]
    clean = records["train_acc_clean"].where(changed < 1, 0.0)  # null, being of no image
    true = ((records["train_acc_true"] - (1 - changed) * clean) / changed).round(DIGITS) + 0.0
    memorised = records["train_acc_corrupted"].where(changed > 0)
    return records[["run", "epoch"]].assign(
        memorised=memorised,
        true=true,
        neither=(1 - memorised - true).round(DIGITS) + 0.0,
        generalization_gap=records["train_acc"] - records["test_acc"],
    )


def share_changed(runs: pd.DataFrame) -> pd.Series:
    """By run, the share (above 0 to 1) of labels trained on that are not the true ones; NaN where
    there are none, and where a corruption of pixels left the labels alone: these runs have no
    noisy test labels either."""
    relabelled = runs["final_test_acc_noisy"].notna() & (runs["share_changed"] > 0)
    return runs["share_changed"].where(relabelled).astype(float)


def in_the_end(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last epoch of each configuration."""
    keys = list(table.columns[: table.columns.get_loc("epoch")])
    return table.drop_duplicates(keys, keep="last")

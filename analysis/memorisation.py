"""How a network predicts the changed labels: shares that follow from the logged accuracies."""

from __future__ import annotations

import pandas as pd

from .runs import Collection

SHARES = ("memorised", "true", "neither")
"""Shares of the changed training labels that are predicted as the label trained on, as the true
one, or as another class. They sum to 1 (Liu et al. 2020, ELR, Figure 1)."""

DERIVED = (*SHARES, "generalization_gap")
"""Metrics that are not logged."""

KEPT_DECIMALS = 12
"""Of a share, so that 0 does not become -1e-17."""


def derive(found: Collection) -> pd.DataFrame:
    """Return the columns `run` (row in the table of runs), `epoch` and `DERIVED` of all records.

    Of the images whose label was not changed, those predicted as their label are predicted as the
    true class. With s the share of changed labels, train_acc_true is therefore
    (1 - s)·train_acc_clean + s·true. Where no label was changed, the shares are NaN.
    """
    logged = [
        "train_acc",
        "test_acc",
        *(f"train_acc_{part}" for part in ("true", "clean", "corrupted")),
    ]
    records = found.metrics(*logged)
    changed = share_changed(found.runs).to_numpy()[records["run"]]
    clean = records["train_acc_clean"].where(changed < 1, 0.0)  # null, as it has no images
    true = ((records["train_acc_true"] - (1 - changed) * clean) / changed).round(
        KEPT_DECIMALS
    ) + 0.0
    memorised = records["train_acc_corrupted"].where(changed > 0)
    return records[["run", "epoch"]].assign(
        memorised=memorised,
        true=true,
        neither=(1 - memorised - true).round(KEPT_DECIMALS) + 0.0,
        generalization_gap=records["train_acc"] - records["test_acc"],
    )


def share_changed(runs: pd.DataFrame) -> pd.Series:
    """Return the share (above 0, at most 1) of training labels that are not the true ones, by run.

    NaN where no label was changed. A corruption of pixels leaves the labels alone: such runs are
    recognised by their missing noisy test labels.
    """
    relabelled = runs["final_test_acc_noisy"].notna() & (runs["share_changed"] > 0)
    return runs["share_changed"].where(relabelled).astype(float)


def last_epochs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the row of the last epoch of each configuration."""
    keys = list(table.columns[: table.columns.get_loc("epoch")])
    return table.drop_duplicates(keys, keep="last")

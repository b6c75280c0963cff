"""`analysis.compare`: which runs cover a published number, the verdicts, the published data."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from analysis import compare
from analysis.collect import collect

from .test_tables import write_run

SEED = pd.read_csv(compare.PUBLISHED / "seed.csv")
PAPER = pd.read_csv(compare.PUBLISHED / "paper.csv")
CIFAR = {"dataset": {"name": "cifar10"}}


def compared(root: Path, published: pd.DataFrame) -> pd.DataFrame:
    found, _ = collect(root, None)
    return compare.compare(found, published)


def test_published_numbers_are_complete() -> None:
    """As many numbers as the sources have: 53 lines of logs, 19 rows of Table 1, and so on."""
    assert SEED["row"].value_counts().to_dict() == {
        "WRN-28-1, true labels": 4 * 14,
        "WRN-28-1, random labels": 4 * 24,
        "MLP 512, random labels": 4 * 15,
    }
    assert PAPER["source"].value_counts().to_dict() == {
        "Table 1": 2 * 19,
        "Table 3": 4,
        "Table 3, text": 1,
        "Table 4": 6,
        "Figure 1a": 57,
        "Figure 1b": 33,
        "Figure 1c": 33,
    }
    for published in (SEED, PAPER):
        assert not published.duplicated(["row", "metric", "epoch", "source"]).any()
        failed = published["note"].astype("str").str.contains("failed to converge")
        assert published["value"].isna().tolist() == failed.tolist()


@pytest.mark.parametrize(
    ("row", "metric", "epoch", "value"),
    [
        ("WRN-28-1, true labels", "train_acc", 0, 0.5849),
        ("WRN-28-1, true labels", "test_acc_noisy", 299, 0.8641),
        ("WRN-28-1, random labels", "test_loss_noisy", 150, 5.5166),
        ("MLP 512, random labels", "test_loss_noisy", 299, 10.3347),
    ],
)
def test_published_logs_hold_the_numbers_of_the_original_readme(
    row: str, metric: str, epoch: int, value: float
) -> None:
    found = SEED[(SEED["row"] == row) & (SEED["metric"] == metric) & (SEED["epoch"] == epoch)]
    assert found["value"].tolist() == [value]


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


def test_tolerance_is_the_stated_rule() -> None:
    one, three = pd.Series([0.5]), pd.Series([0.4, 0.5, 0.6])
    assert compare.tolerance("test_acc", 0.5, one) == 0.01
    assert compare.tolerance("test_acc", 0.5, three) == pytest.approx(3 * 0.1 * math.sqrt(4 / 3))
    assert compare.tolerance("test_loss_noisy", 10.0, one) == 0.5
    assert compare.tolerance("train_loss", 0.01, one) == 0.01
    assert compare.tolerance("relative", 2.0, one) == 0.4


def test_ratios_of_times_are_over_the_runs_on_true_labels(tmp_path: Path) -> None:
    keys = {
        **CIFAR,
        "model": {"name": "mlp", "hidden": [512], "bias": True},
        "schedule": {"name": "exponential"},
        "optimizer": {"weight_decay": 0.0},
    }
    for level, epoch in ((0.0, 9), (0.5, 17)):
        for seed in range(3):
            curve = [0.5] * epoch + [1.0] * (64 - epoch)
            write_run(tmp_path, curve, **keys, corrupt=level, seed=seed)
    published = PAPER[PAPER["source"].isin(["Figure 1b", "Figure 1c"])].copy()
    published["keys"] = published["keys"].str.replace("preprocess=paper", "preprocess=standardize")
    found = compared(tmp_path, published).set_index("row")
    half = found.loc["MLP 1x512, corrupt 0.5"]
    ratio = half[half["metric"] == "relative"].iloc[0]
    assert ratio["ours"] == pytest.approx(18 / 10)
    assert (ratio["n"], ratio["verdict"]) == (3, "agrees")
    error = half[half["metric"] == "test_error"].iloc[0]
    assert error["ours"] == pytest.approx(1 - (0.9 - 0.4 + 0.01))
    assert error["sd"] == pytest.approx(0.01)


def test_command_lists_what_no_run_covers(tmp_path: Path, capsys) -> None:
    write_run(tmp_path, [0.1] * 300, **CIFAR, model={"name": "mlp"}, corrupt=1.0)
    compare.main([str(tmp_path), "--to", "seed"])
    shown = capsys.readouterr().out
    assert "60 of 212 published numbers have runs; none covers" in shown
    assert "original code, README: WRN-28-1, random labels (96)" in shown
    for ending in ("csv", "md", "tex"):
        assert (tmp_path / "summary" / f"compare_seed.{ending}").is_file()
    compare.main([str(tmp_path), "--to", "paper"])
    shown = capsys.readouterr().out
    assert "0 of 172 published numbers have runs" in shown
    assert "Table 4: Alexnet, weight decay, random labels (1)" in shown

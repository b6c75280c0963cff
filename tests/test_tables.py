"""The tables against hand-made runs whose means are known, and their bytes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import collect, report, status
from randlabels.store import metrics

from .conftest import TINY, Cli
from .synthetic import contents, shuffled_folders, table, write_run


def test_corruption_vs_epochs_is_the_mean_over_seeds(sweep: Path) -> None:
    found = table(sweep, "corruption_vs_epochs")
    keys = ["dataset", "model", "corruption", "corrupt", "n", "n_done", "share_changed"]
    assert list(found.columns) == [*keys, "0", "1", "2"]
    assert found[["corrupt", "n", "n_done"]].values.tolist() == [[0.0, 2, 2], [1.0, 2, 2]]
    assert found[["0", "1", "2"]].values.tolist() == [
        pytest.approx([0.75, 1.0, 1.0]),
        pytest.approx([0.2, 0.6, 0.95]),
    ]


def test_time_to_fit_counts_the_runs_that_fit_and_relates_to_true_labels(sweep: Path) -> None:
    found = table(sweep, "time_to_fit").set_index("corrupt")
    assert found.loc[0.0, "epochs_to_fit_mean"] == 1.5  # 2 and 1 epochs
    assert found.loc[0.0, "epochs_to_fit_sd"] == pytest.approx(0.5**0.5)
    assert found.loc[1.0, "epochs_to_fit_mean"] == 3.0
    assert pd.isna(found.loc[1.0, "epochs_to_fit_sd"])
    assert found["n_fitted"].tolist() == [2, 1]
    assert found["relative"].tolist() == [1.0, 2.0]


def test_threshold_of_fitting_can_be_chosen_when_collecting(sweep: Path) -> None:
    found = table(sweep, "time_to_fit", fit_threshold=0.5)
    assert found["epochs_to_fit_mean"].tolist() == [1.0, 2.0]
    assert found["n_fitted"].tolist() == [2, 2]


def test_test_error_is_mean_and_sample_deviation_over_seeds(sweep: Path) -> None:
    found = table(sweep, "test_error").set_index("corrupt")
    assert found["test_error_mean"].tolist() == pytest.approx([0.095, 0.895])
    assert found["test_error_sd"].tolist() == pytest.approx([0.01 * 0.5**0.5] * 2)


def test_nothing_finished_yet_gives_empty_means(tmp_path: Path) -> None:
    write_run(tmp_path, [0.5], state="failed")
    collect.main([str(tmp_path)])
    found = pd.read_csv(tmp_path / "summary" / "test_error.csv")
    assert found[["n", "n_done"]].values.tolist() == [[1, 0]]
    assert found["test_error_mean"].isna().all()
    assert pd.read_csv(tmp_path / "summary" / "runs.csv")["final_test_acc"].isna().all()


def test_collecting_again_in_any_directory_order_gives_the_same_bytes(sweep: Path) -> None:
    collect.main([str(sweep)])
    first = contents(sweep / "summary")
    names = ["corruption_vs_epochs", "memorisation", "runs", "test_error", "time_to_fit"]
    expected = {f"{name}.{ending}" for name in names for ending in ("csv", "md", "tex")}
    assert set(first) == {*expected, "epochs.csv", "epochs.parquet"}
    with shuffled_folders():
        collect.main([str(sweep), "--out", str(sweep / "again")])
    assert contents(sweep / "again") == first
    collect.main([str(sweep)])
    assert contents(sweep / "summary") == first


def test_csv_and_parquet_hold_the_same_epochs(sweep: Path) -> None:
    collect.main([str(sweep)])
    csv = pd.read_csv(sweep / "summary" / "epochs.csv")
    parquet = pd.read_parquet(sweep / "summary" / "epochs.parquet")
    pd.testing.assert_frame_equal(csv, parquet, check_dtype=False)
    assert set(parquet.dtypes[list(metrics.KEYS)[1:]]) == {np.dtype(float)}
    assert len(csv) == 12
    assert list(csv.columns)[-len(metrics.KEYS) :] == list(metrics.KEYS)


def test_true_label_runs_of_any_corruption_are_the_reference_of_relative(tmp_path: Path) -> None:
    """At corrupt=0 the kind has no effect; a seed computed under two kinds counts once."""
    for seed, epochs in ((0, 2), (1, 4)):
        write_run(tmp_path, [0.5] * (epochs - 1) + [1.0] * (9 - epochs), corrupt=0.0, seed=seed)
    pair_flip = {"corruption": {"name": "pair_flip"}}
    write_run(tmp_path, [0.5, 1.0] + [1.0] * 6, corrupt=0.0, **pair_flip)
    for seed, epochs in ((0, 6), (1, 8)):
        curve = [0.5] * (epochs - 1) + [1.0] * (9 - epochs)
        write_run(tmp_path, curve, corrupt=0.5, seed=seed, **pair_flip)
    found = table(tmp_path, "time_to_fit").set_index(["corruption", "corrupt"])
    row = found.loc["pair_flip", 0.5]
    assert row["relative"] == pytest.approx(7 / 3)
    expected = 7 / 3 * np.hypot(2**0.5 / 7, 2**0.5 / 3)
    assert row["relative_sd"] == pytest.approx(expected)
    assert found.loc[("uniform", 0.0), "relative"] == 1
    assert found["relative_sd"].notna().sum() == 1, "a level with one run, or the reference itself"


def test_resolution_of_epochs_to_fit_is_stated_and_warned_about(tmp_path: Path, capsys) -> None:
    write_run(tmp_path, [0.5, 1.0])
    assert table(tmp_path, "time_to_fit")["eval_every"].tolist() == [1]
    write_run(tmp_path, [0.5, 1.0], eval_every=2)
    collect.main([str(tmp_path)])
    assert "time_to_fit has a resolution of eval_every=2 epochs" in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "summary" / "time_to_fit.csv")
    assert found["eval_every"].tolist() == [1, 2] and found["fit_threshold"].tolist() == [0.999] * 2


def test_threshold_of_the_last_launch_counts(cli: Cli, tmp_path: Path) -> None:
    """The second launch computes nothing, since the runs are the same."""
    keys = [*TINY, "epochs=1", "optimizer.lr=0.1"]
    assert cli(*keys).code == 0
    assert table(tmp_path / "runs", "time_to_fit")["n_fitted"].tolist() == [0]
    assert "Already done" in cli(*keys, "fit_threshold=0.01").out
    found = table(tmp_path / "runs", "time_to_fit")
    assert found[["n_fitted", "fit_threshold"]].values.tolist() == [[1, 0.01]]


def test_lists_and_numbers_sort_as_a_person_would(tmp_path: Path) -> None:
    for width in (256, 16, 64):
        write_run(tmp_path, [0.5], model={"name": "mlp", "hidden": [width]}, batch_size=width)
    for name in ("runs", "test_error"):
        found = table(tmp_path, name)
        assert found["model.hidden"].tolist() == ["[16]", "[64]", "[256]"]
        assert found["batch_size"].tolist() == [16, 64, 256]


def test_real_sweep_fills_every_column_of_the_contract(cli: Cli, tmp_path: Path) -> None:
    assert cli("-m", *TINY, "corrupt=0.0,1.0", "seed=0,1", "hydra/launcher=basic").code == 0
    collect.main([str(tmp_path / "runs" / "default")])
    summary = tmp_path / "runs" / "default" / "summary"
    found = pd.read_csv(summary / "runs.csv")
    assert len(found) == 4
    nulls = set(found.columns[found.isna().any()])
    assert nulls == {"final_train_acc_corrupted", "best_train_acc_corrupted", "epochs_to_fit"}
    assert found["share_changed"].between(0.7, 1).tolist() == (found["corrupt"] == 1).tolist()
    clean = found["corrupt"] == 0
    assert found.loc[clean, "final_train_acc_corrupted"].isna().all()
    assert found.loc[~clean, "final_train_acc_corrupted"].notna().all()
    measured = [f"{kind}_{key}" for kind in ("final", "best") for key in metrics.MEASURED]
    keys = ["dataset", "model", "corruption", "corrupt"]
    ends = ["epochs_to_fit", "parameters", "seconds", "share_changed", "used_device"]
    ends += "used_precision used_threads used_torch used_numpy device_name git command".split()
    assert list(found.columns) == ["run_id", "state", *keys, "seed", *measured, *ends]
    counted = [*keys, "n", "n_done", "share_changed"]
    columns = {file.stem: list(pd.read_csv(file).columns) for file in summary.glob("*.csv")}
    assert columns["epochs"] == ["run_id", *keys, "seed", *metrics.KEYS]
    assert columns["corruption_vs_epochs"] == [*counted, "0", "1"]
    fit = ["epochs_to_fit_mean", "epochs_to_fit_sd", "n_fitted", "relative", "relative_sd"]
    fit += ["eval_every", "fit_threshold"]
    assert columns["time_to_fit"] == [*counted, *fit]
    assert columns["test_error"] == [*counted, "test_error_mean", "test_error_sd"]
    shares = ["memorised", "true", "neither", "generalization_gap"]
    assert columns["memorisation"] == [*counted, "epoch", *shares]


def test_folder_without_runs_is_one_sentence(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SystemExit, match=r"^Error: .*(holds no run|must be a folder)"):
            collect.main([str(folder)])


def test_error_for_a_missing_folder_lists_the_existing_ones(sweep: Path) -> None:
    (sweep / "paper-figure1bc").mkdir()
    sentence = f"^Error: {sweep}/nowhere must be a folder; {sweep} has .*paper-figure1bc"
    for command in (collect, status):
        with pytest.raises(SystemExit, match=sentence):
            command.main([str(sweep / "nowhere")])


def test_each_command_names_the_next(sweep: Path, capsys: pytest.CaptureFixture) -> None:
    collect.main([str(sweep)])
    assert capsys.readouterr().out.endswith(f"Figures: python -m analysis.report {sweep}\n")
    report.main([str(sweep)])
    figures = re.findall(r"^(\S+\.png)  \S.*\.$", capsys.readouterr().out, re.M)
    assert sorted(map(Path, figures)) == sorted(sweep.glob("summary/figures/*.png"))


def test_early_stopping_is_the_best_test_accuracy_so_far(cli: Cli, tmp_path: Path) -> None:
    """Half of the labels are wrong, so test accuracy falls again while the network fits them."""
    keys = ["model.hidden=[64]", "corrupt=0.5", "epochs=60", "optimizer.lr=0.1", "eval_every=3"]
    assert cli(*TINY, *keys).code == 0
    records, _ = metrics.read(next(tmp_path.glob("runs/*/*/metrics.jsonl")))
    curve = [r["test_acc"] for r in records if r["test_acc"] is not None]
    (row,) = table(tmp_path / "runs", "runs").to_dict("records")
    assert row["best_test_acc"] == max(curve) > row["final_test_acc"] == curve[-1]

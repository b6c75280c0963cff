"""The tables against hand-made runs whose means are known, and their bytes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis import collect, report, status
from randlabels.config import parse
from randlabels.store import metrics, rundir

from .conftest import BASIC, TINY, Cli
from .synthetic import contents, shuffled_walk, table, write_run


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


def test_different_experiments_are_never_averaged(sweep: Path) -> None:
    write_run(sweep, [0.2, 0.2, 0.2], corrupt=0.0, batch_size=7)
    write_run(sweep, [0.4, 0.4, 0.4], corrupt=0.0, model={"name": "mlp", "hidden": [3]})
    write_run(sweep, [0.6, 0.6, 0.6], corrupt=0.0, model={"name": "wrn"})
    found = table(sweep, "corruption_vs_epochs")
    keys = ["dataset", "model", "corruption", "corrupt", "batch_size", "model.hidden"]
    assert list(found.columns)[:7] == [*keys, "optimizer.lr"]
    assert found["n"].tolist() == [1, 1, 2, 2, 1]
    assert sorted(found["0"]) == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.75])


def test_null_is_a_value_like_any_other(sweep: Path) -> None:
    write_run(sweep, [0.2, 0.2, 0.2], dataset={"name": "digits", "train_size": 64})
    found = table(sweep, "corruption_vs_epochs")
    assert found.columns[4] == "dataset.train_size"
    assert found[["n", "0"]].values.tolist() == [[1, 0.2], [2, 0.75], [2, pytest.approx(0.2)]]
    assert found["dataset.train_size"].isna().tolist() == [False, True, True]
    collect.main([str(sweep)])
    assert "digits,mlp,uniform,0,64,1,1,," in (sweep / "summary" / "test_error.csv").read_text()


def test_index_of_a_gpu_does_not_distinguish_runs(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, [0.5], seed=seed, device=f"cuda:{seed}")
    assert table(tmp_path, "corruption_vs_epochs")["n"].tolist() == [2]


def test_run_in_several_folders_counts_once_by_the_one_that_came_furthest(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_run(tmp_path / "a", [0.5, 0.5], state="interrupted")
    done = write_run(tmp_path / "b", [0.25, 0.75])
    failed = write_run(tmp_path / "c", [0.1, 0.1], state="failed")
    assert done.run_id == failed.run_id
    found = table(tmp_path, "corruption_vs_epochs")
    assert found[["n", "n_done", "0", "1"]].values.tolist() == [[1, 1, 0.25, 0.75]]
    assert len(table(tmp_path, "epochs")) == 2
    collect.main([str(tmp_path)])
    assert capsys.readouterr().out.count("holds the run of another folder") == 2
    other = write_run(tmp_path / "d", [0.5, 0.5], seed=1)
    rundir.write_json(other.environment, {"schema": 9})
    collect.main([str(tmp_path)])
    shown = capsys.readouterr().out
    assert f"{other.path} is skipped: it was written as schema 9, and this program" in shown


def test_nothing_finished_yet_gives_empty_means(tmp_path: Path) -> None:
    write_run(tmp_path, [0.5], state="failed")
    collect.main([str(tmp_path)])
    found = pd.read_csv(tmp_path / "summary" / "test_error.csv")
    assert found[["n", "n_done"]].values.tolist() == [[1, 0]]
    assert found["test_error_mean"].isna().all()
    assert pd.read_csv(tmp_path / "summary" / "runs.csv")["final_test_acc"].isna().all()


def test_draws_of_the_labels_are_averaged_like_seeds(tmp_path: Path) -> None:
    for seed in (1, 2):
        corruption = {"name": "uniform", "seed": seed}
        write_run(tmp_path, [seed / 2], corrupt=0.5, corruption=corruption)
    found = table(tmp_path, "corruption_vs_epochs")
    assert found[["n", "0"]].values.tolist() == [[2, 0.75]]
    assert table(tmp_path, "runs")["corruption.seed"].tolist() == [1, 2]


def test_unfinished_runs_are_counted_listed_and_left_out_of_means(
    sweep: Path, capsys: pytest.CaptureFixture
) -> None:
    write_run(sweep, [0.0], state="failed", corrupt=0.0, seed=2)
    write_run(sweep, [0.0], state="diverged", corrupt=0.0, seed=3)
    torn = write_run(sweep, [0.0, 0.0], state="interrupted", corrupt=0.0, seed=4)
    torn.metrics.write_bytes(torn.metrics.read_bytes()[:-9])
    planned = parse({"dataset": {"name": "digits"}, "model": {"name": "mlp"}, "seed": 5})
    rundir.merge_plan(sweep, [{"run_id": planned.run_id, "config": planned.tree()}])
    damaged = write_run(sweep, [0.0, 0.0], corrupt=0.0, seed=6)
    damaged.metrics.write_text("{}}\n{}\n")
    tree = yaml.safe_load(damaged.config.read_text())
    rundir.merge_plan(sweep, [{"run_id": damaged.run_id, "config": tree}, {"run_id": "bare"}])
    (sweep / "notes").mkdir()

    found = table(sweep, "runs")
    states = ["damaged", "diverged", *["done"] * 4, "failed", "interrupted", "planned"]
    assert sorted(found["state"]) == states
    error = table(sweep, "test_error")
    epochs_differ = error[error["corrupt"] == 0.0]
    assert (epochs_differ["n"].sum(), epochs_differ["n_done"].sum()) == (7, 2)
    assert epochs_differ["test_error_mean"].dropna().tolist() == pytest.approx([0.095])

    collect.main([str(sweep)])
    shown = capsys.readouterr().out
    assert "9 runs: 1 damaged, 1 diverged, 4 done, 1 failed, 1 interrupted, 1 planned." in shown
    assert f"{planned.run_id}: planned" in shown
    assert f"{torn.metrics} ends with a torn line, which is skipped" in shown
    assert f"{damaged.metrics} is damaged: " in shown


def test_mixed_origins_are_warned_about(sweep: Path, capsys: pytest.CaptureFixture) -> None:
    other = write_run(sweep, [1.0, 1.0, 1.0], corrupt=0.0, seed=9)
    content = json.loads(other.environment.read_text())
    content |= {"threads": 2, "precision": "bf16", "git": {"commit": "b" * 40, "dirty": True}}
    other.environment.write_text(json.dumps(content))
    collect.main([str(sweep)])
    shown = capsys.readouterr().out
    assert "mix runs with different used_threads: 1 (4), 2 (1)" in shown
    assert "different used_precision: bf16 (1), fp32 (4); precision=auto decides by model" in shown
    assert f"different git: {'a' * 12} (4), {'b' * 12}+ (1)" in shown


def test_collecting_again_in_any_directory_order_gives_the_same_bytes(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect.main([str(sweep)])
    first = contents(sweep / "summary")
    names = ["corruption_vs_epochs", "memorisation", "runs", "test_error", "time_to_fit"]
    expected = {f"{name}.{ending}" for name in names for ending in ("csv", "md", "tex")}
    assert set(first) == {*expected, "epochs.csv", "epochs.parquet"}
    monkeypatch.setattr("os.walk", shuffled_walk)
    collect.main([str(sweep), "--out", str(sweep / "again")])
    monkeypatch.undo()
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


def test_repeated_computations_count_once(cli: Cli, tmp_path: Path) -> None:
    """A kernel draws nothing from `seed`; without corruption no label is drawn."""
    runs = tmp_path / "runs"
    kernel = ["dataset=digits", "dataset.train_size=64", "model=kernel", "seed=0,1,2", BASIC]
    assert cli("-m", *kernel, "corrupt=0.0,0.5", "corruption.seed=1,2").code == 0
    found = table(runs, "test_error")
    assert found[["n", "n_done"]].values.tolist() == [[1, 1], [2, 2]]
    assert found["test_error_sd"].isna().tolist() == [True, False]
    sentences = collect.warnings(collect.collect(runs)[0])
    assert any(s.startswith("9 runs repeat the computation of another") for s in sentences)


def test_corruption_seed_has_no_effect_without_corruption(tmp_path: Path) -> None:
    """The keys show this; on other hardware the numbers differ in the last digits."""
    for seed in (1, 2):
        corruption = {"name": "uniform", "seed": seed}
        state = "done" if seed == 2 else "failed"
        write_run(tmp_path, [seed / 2], corrupt=0.0, corruption=corruption, state=state)
    found = table(tmp_path, "corruption_vs_epochs")
    assert found[["n", "n_done", "0"]].values.tolist() == [[1, 1, 1.0]]


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
    ends += [
        "used_precision",
        "used_threads",
        "used_torch",
        "used_numpy",
        "device_name",
        "git",
        "command",
    ]
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

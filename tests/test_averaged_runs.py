"""Which runs a mean in the tables is over: counted once, and never of two experiments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from analysis import collect
from randlabels.config import parse
from randlabels.store import rundir

from .conftest import BASIC, Cli
from .synthetic import table, write_run


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
    without_environment = write_run(sweep, [1.0], state="planned", seed=10)
    without_environment.environment.unlink()
    other = write_run(sweep, [1.0, 1.0, 1.0], corrupt=0.0, seed=9)
    content = json.loads(other.environment.read_text())
    content |= {"device_name": "B", "threads": 2, "precision": "bf16"}
    content |= {"git": {"commit": "b" * 40, "dirty": True}}
    other.environment.write_text(json.dumps(content))
    collect.main([str(sweep)])
    shown = capsys.readouterr().out
    assert "mix runs with different used_threads: 1 (4), 2 (1)" in shown
    assert "mix runs with different device_name: A (4), B (1)" in shown
    assert "different used_precision: bf16 (1), fp32 (4); precision=auto decides by model" in shown
    assert f"different git: {'a' * 12} (4), {'b' * 12}+ (1)" in shown


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

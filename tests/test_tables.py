"""The tables against hand-made runs whose means are known, and their bytes."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis import collect, epochs, formats
from randlabels import metrics, rundir
from randlabels.config import parse
from randlabels.rundir import RunDir

from .conftest import TINY, Cli

CURVES = {
    # (corrupt, seed): train accuracy by epoch
    (0.0, 0): [0.5, 1.0, 1.0],
    (0.0, 1): [1.0, 1.0, 1.0],
    (1.0, 0): [0.1, 0.5, 1.0],
    (1.0, 1): [0.3, 0.7, 0.9],  # never fits
}


def record(epoch: int, train_acc: float, test_acc: float) -> dict[str, Any]:
    values = dict.fromkeys(metrics.KEYS, 0.25)
    values |= {"epoch": epoch, "lr": 0.1, "train_acc": train_acc, "test_acc": test_acc}
    return values | {"train_acc_corrupted": None}


def write_run(root: Path, curve: list[float], state: str = "done", **keys: Any) -> RunDir:
    """A run folder as a run leaves it; test accuracy is 0.9 - 0.8·corrupt + 0.01·seed."""
    model = keys.pop("model", {"name": "mlp"})
    config = parse({"dataset": {"name": "digits"}, "model": model, "epochs": len(curve), **keys})
    run = RunDir(root / config.run_id)
    run.path.mkdir(parents=True)
    run.config.write_text(yaml.safe_dump(config.tree()))
    test_acc = 0.9 - 0.8 * config.corrupt + 0.01 * config.seed
    records = [record(epoch, acc, test_acc) for epoch, acc in enumerate(curve)]
    run.metrics.write_text("".join(metrics.encode(r) + "\n" for r in records))
    if state in rundir.FINISHED:
        last = {key: records[-1][key] for key in metrics.MEASURED}
        result = {"config_hash": config.hash, "state": state, "parameters": 592, "seconds": 1.0}
        result |= {"final": last, "best": metrics.best(records)}
        rundir.write_json(run.done, result)
    elif state == "failed":
        rundir.write_json(run.error, {"exception": "OSError: no", "traceback": ""})
    used = {"device": "cpu", "precision": "fp32", "threads": 1, "versions": {"torch": "2.15.0"}}
    rundir.write_json(run.environment, {**used, "git": {"commit": "a" * 40, "dirty": False}})
    return run


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for (corrupt, seed), curve in CURVES.items():
        write_run(tmp_path, curve, corrupt=corrupt, seed=seed)
    return tmp_path


def table(root: Path, name: str, fit_threshold: float | None = None) -> pd.DataFrame:
    """A table of the runs under `root` as collect builds it, or epochs.csv."""
    _, tables = collect.collect(root, None, fit_threshold)
    return pd.read_csv(root / "summary" / "epochs.csv") if name == "epochs" else tables[name]


def test_corruption_vs_epochs_is_the_mean_over_seeds(sweep: Path) -> None:
    found = table(sweep, "corruption_vs_epochs")
    keys = ["dataset", "model", "corruption", "corrupt", "n", "n_done"]
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
    assert "digits,mlp,uniform,0,64,1,1," in (sweep / "summary" / "test_error.csv").read_text()


def test_index_of_a_gpu_tells_no_two_runs_apart(tmp_path: Path) -> None:
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
    assert f"{other.path} is passed over: it was written as schema 9, and this program" in shown


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
    assert f"{torn.metrics}: the torn last line is passed over" in shown
    assert f"{damaged.metrics} is damaged (" in shown


def test_mixed_origins_are_warned_about(sweep: Path, capsys: pytest.CaptureFixture) -> None:
    other = write_run(sweep, [1.0, 1.0, 1.0], corrupt=0.0, seed=9)
    content = json.loads(other.environment.read_text())
    content |= {"threads": 2, "git": {"commit": "b" * 40, "dirty": True}}
    other.environment.write_text(json.dumps(content))
    collect.main([str(sweep)])
    shown = capsys.readouterr().out
    assert "mix runs with different used_threads: 1 (4), 2 (1)" in shown
    assert f"different git: {'a' * 12} (4), {'b' * 12}+ (1)" in shown


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a summary but its cache, by name."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    found = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
    return {name: content for name, content in found.items() if not name.startswith(".cache")}


class Shuffled(list):
    """`os.scandir` in another order."""

    listing = staticmethod(os.scandir)

    def __init__(self, path: str | Path) -> None:
        with self.listing(path) as found:
            super().__init__(found)
        random.Random(1).shuffle(self)

    __enter__ = list.copy

    def __exit__(self, *error: object) -> None:
        pass


def test_collecting_again_in_any_directory_order_gives_the_same_bytes(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect.main([str(sweep)])
    first = contents(sweep / "summary")
    names = ["corruption_vs_epochs", "test_error", "time_to_fit"]
    expected = {f"{name}.{ending}" for name in names for ending in ("csv", "md", "tex")}
    (block,) = (name for name in first if name.startswith("epochs.parquet/"))
    assert set(first) == {*expected, "epochs.csv", "runs.csv", block}
    monkeypatch.setattr("os.scandir", Shuffled)
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


def test_real_sweep_fills_every_column_of_the_contract(cli: Cli, tmp_path: Path) -> None:
    assert cli("-m", *TINY, "corrupt=0.0,1.0", "seed=0,1", "hydra/launcher=basic").code == 0
    collect.main([str(tmp_path / "runs" / "default")])
    summary = tmp_path / "runs" / "default" / "summary"
    found = pd.read_csv(summary / "runs.csv")
    assert len(found) == 4
    nulls = set(found.columns[found.isna().any()])
    assert nulls == {"final_train_acc_corrupted", "best_train_acc_corrupted", "epochs_to_fit"}
    clean = found["corrupt"] == 0
    assert found.loc[clean, "final_train_acc_corrupted"].isna().all()
    assert found.loc[~clean, "final_train_acc_corrupted"].notna().all()
    measured = [f"{kind}_{key}" for kind in ("final", "best") for key in metrics.MEASURED]
    keys = ["dataset", "model", "corruption", "corrupt"]
    ends = ["epochs_to_fit", "parameters", "seconds", "used_device", "used_precision"]
    ends += ["used_threads", "used_torch", "used_numpy", "git"]
    assert list(found.columns) == ["run_id", "state", *keys, "seed", *measured, *ends]
    counted = [*keys, "n", "n_done"]
    columns = {file.stem: list(pd.read_csv(file).columns) for file in summary.glob("*.csv")}
    assert columns["epochs"] == ["run_id", *keys, "seed", *metrics.KEYS]
    assert columns["corruption_vs_epochs"] == [*counted, "0", "1"]
    fit = ["epochs_to_fit_mean", "epochs_to_fit_sd", "n_fitted", "relative"]
    assert columns["time_to_fit"] == [*counted, *fit]
    assert columns["test_error"] == [*counted, "test_error_mean", "test_error_sd"]


def test_folder_without_runs_is_one_sentence(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SystemExit, match=r"^Error: .*(holds no run|is no folder)"):
            collect.main([str(folder)])


# Incremental


def many(root: Path, seeds: range) -> None:
    for seed in seeds:
        write_run(root, [seed / 400, 0.5, 1.0], seed=seed)


def test_collecting_after_changes_equals_collecting_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that come, go, change and grow; blocks that stay are not parsed again."""
    root = tmp_path / "runs"
    many(root, range(0, 150))
    collect.main([str(root)])
    parsed: list[int] = []
    parse_block = epochs._parse

    def counting(block: epochs.Block, *arguments: Any) -> Any:
        parsed.append(len(block.runs))
        return parse_block(block, *arguments)

    monkeypatch.setattr(epochs, "_parse", counting)
    collect.main([str(root)])
    assert parsed == []

    folders = sorted(root.glob("mlp*"))
    changed = folders[70] / "metrics.jsonl"
    changed.write_text(changed.read_text().replace("0.5", "0.75", 1))
    collect.main([str(root)])
    assert len(parsed) == 1 and parsed[0] < 150

    shutil.rmtree(folders[10])
    many(root, range(150, 180))
    with open(folders[20] / "metrics.jsonl", "a") as file:
        file.write(metrics.encode(record(3, 1.0, 0.5)) + "\n" + "{torn")
    collect.main([str(root)])
    assert len(parsed) > 1
    incremental = contents(root / "summary")
    collect.main([str(root), "--out", str(tmp_path / "anew")])
    assert contents(tmp_path / "anew") == incremental
    assert len([name for name in incremental if "parquet" in name]) > 1


def test_edited_or_missing_tables_are_written_anew(sweep: Path) -> None:
    collect.main([str(sweep)])
    first = contents(sweep / "summary")
    summary = sweep / "summary"
    (summary / "epochs.csv").write_text("edited")
    (summary / "test_error.csv").unlink()
    for block in (summary / "epochs.parquet").iterdir():
        block.unlink()
    collect.main([str(sweep)])
    assert contents(summary) == first
    shutil.rmtree(summary / ".cache")
    collect.main([str(sweep)])
    assert contents(summary) == first


# Names


HOSTILE = ["a&b", "a_b", "<script>alert(1)</script>", "=cmd|x", "{a}$", "a|b", "50%", "+1", "-x"]


def test_names_are_escaped_in_every_format(tmp_path: Path) -> None:
    frame = pd.DataFrame({"na_me": HOSTILE, "number": range(len(HOSTILE))})
    formats.write_csv(frame, tmp_path / "x.csv")
    formats.write_for_papers(frame.astype("str"), tmp_path / "x")
    csv = pd.read_csv(tmp_path / "x.csv")
    assert not csv["na_me"].str.match("[=+-]").any()
    assert csv["na_me"].str.removeprefix("'").tolist() == HOSTILE
    text = (tmp_path / "x.md").read_text()
    assert "<script>" not in text and text.count("\n") == len(HOSTILE) + 2
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines()} == {3}
    tex = (tmp_path / "x.tex").read_text()
    body = tex.partition("\\midrule")[2].partition("\\bottomrule")[0]
    assert not re.findall(r"(?<!\\)[&_$%{}#](?!\s\d)", body.replace("{}", ""))
    assert {line.count(" & ") for line in body.strip().splitlines()} == {1}
    assert tex.startswith("\\begin{tabular}{lr}\n\\toprule\n")


def test_papers_tables_show_mean_deviation_and_number_of_seeds(sweep: Path) -> None:
    collect.main([str(sweep)])
    lines = (sweep / "summary" / "test_error.md").read_text().splitlines()
    assert lines[0] == "| dataset | model | corruption | corrupt | n | n\\_done | test error (%) |"
    assert lines[2] == "| digits | mlp | uniform | 0 | 2 | 2 | 9.5 ± 0.7 |"
    tex = (sweep / "summary" / "test_error.tex").read_text()
    assert r"digits & mlp & uniform & 0 & 2 & 2 & 9.5 $\pm$ 0.7 \\" in tex

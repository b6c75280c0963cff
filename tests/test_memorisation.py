"""Predictions of the changed labels: the table against counts, and its figure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import collect, figures

from .conftest import BASIC, TINY, Cli
from .synthetic import table, write_run

SHARES = ["memorised", "true", "neither"]


@pytest.mark.slow
def test_shares_are_those_counted_from_the_predictions(
    cli: Cli, tmp_path: Path, measure_also: Callable[[Callable[..., dict]], None]
) -> None:
    """Checks each epoch of real runs; with `uniform_exclusive` at 1, no label is unchanged."""
    counted: list[dict[str, float]] = []

    def count_shares(found: Any, loss: Any, train: Any, test: Any, outputs: Any, *_: Any) -> dict:
        counts, changed, right = dict.fromkeys(SHARES, 0), 0, 0
        predicted = outputs.argmax(1).tolist()
        for answer, label, true in zip(
            predicted, train.labels.tolist(), train.true.tolist(), strict=True
        ):
            right += answer == label
            if label != true:
                changed += 1
                counts[{label: "memorised", true: "true"}.get(answer, "neither")] += 1
        shares = {share: counts[share] / changed for share in SHARES}
        gap = right / len(predicted) - found["test_acc"]
        counted.append({**shares, "generalization_gap": gap})
        return {}

    measure_also(count_shares)
    corruptions = "corruption=uniform,uniform_exclusive"
    keys = ["corrupt=0.5,1.0", "seed=0,1", "epochs=3", "optimizer.lr=0.1", BASIC]
    assert cli("-m", *TINY, corruptions, *keys).code == 0
    found = table(tmp_path / "runs", "memorisation")
    assert found[["n", "n_done"]].values.tolist() == [[2, 2]] * 12
    assert found["epoch"].tolist() == [0, 1, 2] * 4
    for i, row in enumerate(found.to_dict("records")):
        configuration, epoch = divmod(i, 3)
        seeds = [counted[6 * configuration + 3 * seed + epoch] for seed in (0, 1)]
        for metric in (*SHARES, "generalization_gap"):
            mean = sum(shares[metric] for shares in seeds) / 2
            assert row[metric] == pytest.approx(mean, abs=1e-12)
    assert found[SHARES].max().min() > 0.1  # each of them says something


@pytest.mark.slow
def test_shares_are_empty_where_no_label_was_changed(cli: Cli, tmp_path: Path) -> None:
    keys = ["corruption=uniform,random_pixels", "corrupt=0.0,1.0", "epochs=5", "eval_every=2"]
    assert cli("-m", *TINY, *keys, BASIC).code == 0
    found = table(tmp_path / "runs", "memorisation")
    assert found["epoch"].tolist() == [1, 3, 4] * 4
    assert found["generalization_gap"].notna().all()
    relabelled = (found["corruption"] == "uniform") & (found["corrupt"] == 1)
    assert found.loc[relabelled, SHARES].notna().all(axis=None)
    assert found.loc[~relabelled, SHARES].isna().all(axis=None)


def write_noisy_run(root: Path, epochs: int, **keys: Any) -> None:
    """A run by hand: of the half of the labels that is changed, three quarters are memorised."""
    run = write_run(root, [0.75] * epochs, **keys)
    run.corruption.write_text(json.dumps({"classes": 10, "share_changed": 0.5}))
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    for line in lines:
        line |= {"train_acc_clean": 0.75, "train_acc_corrupted": 0.75, "train_acc_true": 0.4375}
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_runs_that_are_not_done_are_counted_and_in_no_mean(tmp_path: Path) -> None:
    write_run(tmp_path, [0.5] * 4, corrupt=0.0, fit_threshold=0.5)  # more epochs than the noisy one
    write_noisy_run(tmp_path, 2, corrupt=0.5)
    write_noisy_run(tmp_path, 2, corrupt=0.5, seed=1, state="failed")
    write_noisy_run(tmp_path, 2, corrupt=1.0, state="interrupted")
    found = table(tmp_path, "memorisation").drop(columns=["dataset", "model", "corruption"])
    expected = pd.DataFrame(
        [
            *([0.0, 4, 1, 1, None, epoch, None, None, None, 0.5 - 0.9] for epoch in range(4)),
            *([0.5, 2, 2, 1, 0.5, epoch, 0.75, 0.125, 0.125, 0.75 - 0.5] for epoch in range(2)),
            [1.0, 2, 1, 0, None, None, None, None, None, None],
        ],
        columns=[
            "corrupt",
            "epochs",
            "n",
            "n_done",
            "share_changed",
            "epoch",
            *SHARES,
            "generalization_gap",
        ],
    )
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def test_readable_table_holds_the_last_epoch_in_percent(tmp_path: Path) -> None:
    write_noisy_run(tmp_path, 3, corrupt=0.5)
    write_run(tmp_path, [0.5] * 3, corrupt=0.0)
    collect.main([str(tmp_path)])
    lines = (tmp_path / "summary" / "memorisation.md").read_text().splitlines()
    assert lines[0].endswith("memorised (%) | true (%) | neither (%) | generalization gap (%) |")
    assert lines[2:] == [
        "| digits | mlp | uniform | 0 | 1 | 1 | - | 2 | - | - | - | -40.0 |",
        "| digits | mlp | uniform | 0.5 | 1 | 1 | 50.0 | 2 | 75.0 | 12.5 | 12.5 | 25.0 |",
    ]


@pytest.mark.slow
def test_figure_shows_the_shares_of_each_level_with_changed_labels(tmp_path: Path) -> None:
    write_run(tmp_path, [0.5] * 3, corrupt=0.0)
    (panel,) = figures.build(collect.collect(tmp_path)[0])["memorisation"][0].axes
    assert [text.get_text() for text in panel.texts] == ["no run with changed labels is done"]
    for level, model in ((0.1, "mlp"), (0.5, "mlp"), (0.5, "linear")):
        write_noisy_run(tmp_path, 3, corrupt=level, model={"name": model})
    figure, _ = figures.build(collect.collect(tmp_path)[0])["memorisation"]
    assert [panel.get_title("left") for panel in figure.axes] == ["linear", "mlp"]
    lines = figure.axes[1].lines
    assert [line.get_label() for line in lines] == ["0.1", "0.1", "0.5", "0.5"]
    assert [line.get_ydata().tolist() for line in lines] == [[75.0] * 3, [12.5] * 3] * 2

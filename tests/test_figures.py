"""What the figures of a collection show, and say of themselves."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from analysis import collect, figures, report
from randlabels.store.rundir import write_json

from .synthetic import write_run


def test_errors_are_drawn_against_true_and_against_noisy_test_labels(sweep: Path) -> None:
    drawn = figures.build(collect.collect(sweep, None)[0])
    for name, expected in (("test_error", [9.5, 89.5]), ("test_error_noisy", [75.0, 75.0])):
        (curve,) = drawn[name][0].axes[0].containers
        assert curve.lines[0].get_ydata().tolist() == pytest.approx(expected)


def test_figures_tell_the_number_of_seeds_and_bars_stand_for_several(
    sweep: Path, tmp_path: Path
) -> None:
    several = figures.build(collect.collect(sweep, None)[0])
    one = tmp_path / "one"
    for level in (0.0, 1.0):
        write_run(one, [0.5, 1.0], corrupt=level)
    single = figures.build(collect.collect(one, None)[0])
    for name in ("test_error", "generalization_gap"):
        assert several[name][0].axes[0].containers[0].has_yerr
        assert not single[name][0].axes[0].containers[0].has_yerr
    assert all(
        text.endswith(" Means over 2 runs, and their deviation.") for _, text in several.values()
    )
    assert all(
        text.endswith(" One run each, so no deviation is known.") for _, text in single.values()
    )
    for seed in (1, 2):
        write_run(one, [0.5, 1.0], corrupt=1.0, seed=seed)
    found = collect.collect(one, None)[0]
    assert figures.repetitions(found) == "Means over 1 to 3 runs, and their deviation."
    report.main([str(one)])
    html = (one / "summary" / "report.html").read_text()
    assert "4 runs on digits, after Zhang" in html


@pytest.mark.parametrize(("peak", "top"), [(57.0, 1.1 * math.log(10)), (4.0, None)])
def test_the_peak_of_one_epoch_does_not_flatten_the_learning_curves(
    peak: float, top: float | None, tmp_path: Path
) -> None:
    """What is not far from the others has its room, and so has a network that guesses."""
    run = write_run(tmp_path, [0.5] * 100)
    write_json(run.corruption, {"classes": 10})
    lines = [
        json.loads(line) | {"train_loss": 1.0} for line in run.metrics.read_text().splitlines()
    ]
    lines[0]["train_loss"] = peak
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    figure = figures.learning_curves(collect.collect(tmp_path, None)[0])
    shown = figure.axes[0].get_ylim()[1]
    assert shown == pytest.approx(top) if top else shown > peak


def test_legend_names_a_level_whose_labels_are_all_corrupted(tmp_path: Path) -> None:
    """Where no label is unchanged, only the dashed curve is there to be named."""
    for level in (0.5, 1.0):
        run = write_run(tmp_path, [0.5, 0.75, 1.0], corrupt=level)
        lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
        for line in lines:
            line |= {"train_acc_corrupted": 0.5, "train_acc_clean": None if level == 1 else 0.5}
        run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, _ = collect.collect(tmp_path, None)
    figure = figures.clean_and_corrupted(found)
    (legend,) = [panel.get_legend() for panel in figure.axes]
    assert [text.get_text() for text in legend.get_texts()] == ["0.5", "1"]

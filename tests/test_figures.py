"""The figures of a collection: what they show, and their captions."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from analysis import collect, figures, report
from analysis.panels import level_colour
from randlabels.store.rundir import write_json

from .synthetic import write_run


def test_errors_are_drawn_against_true_and_against_noisy_test_labels(sweep: Path) -> None:
    drawn = figures.build(collect.collect(sweep)[0])
    for name, expected in (("test_error", [9.5, 89.5]), ("test_error_noisy", [75.0, 75.0])):
        (curve,) = drawn[name][0].axes[0].containers
        assert curve.lines[0].get_ydata().tolist() == pytest.approx(expected)


@pytest.mark.slow
def test_number_of_seeds_is_stated_once_and_bars_are_of_several(
    sweep: Path, tmp_path: Path
) -> None:
    several, one = collect.collect(sweep)[0], tmp_path / "one"
    for level in (0.0, 1.0):
        write_run(one, [0.5, 1.0], corrupt=level)
    single = collect.collect(one)[0]
    for found, expected in ((several, True), (single, False)):
        figure, _ = figures.build(found)["generalization_gap"]
        assert figure.axes[0].containers[0].has_yerr == expected
    assert figures.repetitions(several) == "Means over 2 runs, with their sample deviation."
    assert figures.repetitions(single) == "One run each, so no deviation is known."
    for seed in (1, 2):
        write_run(one, [0.5, 1.0], corrupt=1.0, seed=seed)
    report.main([str(one)])
    html = (one / "summary" / "report.html").read_text()
    assert html.count("Means over 1 to 3 runs, with their sample deviation.") == 1
    assert "4 runs on digits, after Zhang" in html


def test_panels_are_stacked_for_a_phone(tmp_path: Path) -> None:
    for model in ("mlp", "linear"):
        write_run(tmp_path, [0.5, 1.0], model={"name": model})
    found, _ = collect.collect(tmp_path)
    for columns, expected in ((2, 2), (1, 1)):
        figure = figures.learning_curves(found, columns)
        left_edges = {round(panel.get_position().x0, 3) for panel in figure.axes}
        assert len(figure.axes) == 2 and len(left_edges) == expected


@pytest.mark.slow
def test_report_names_the_networks_and_the_command_of_the_sweep(tmp_path: Path) -> None:
    """Also the keys that one model alone has; a worker's own command is not one of a user."""
    started = {"mlp": "/x/randlabels/run.py", "wrn": "/x/randlabels/launchers/job.py"}
    for model, program in started.items():
        run = write_run(tmp_path, [0.5], model={"name": model}, optimizer={"lr": 0.1})
        environment = json.loads(run.environment.read_text())
        environment["argv"] = [program, "-m", "model=mlp,wrn", "name=a b"]
        write_json(run.environment, environment)
    report.main([str(tmp_path)])
    html = (tmp_path / "summary" / "report.html").read_text()
    configuration = html.partition("<h2>Configuration</h2>")[2]
    assert "\nmodel=mlp model.bias=false model.hidden=[512]\n" in configuration
    assert "\nmodel=wrn model.depth=28 model.dropout=0.0 model.widen=1<" in configuration
    assert configuration.count("model.depth") == 1 and "\noptimizer.lr=0.1\n" in configuration
    assert configuration.count("python -m randlabels.run") == 1
    assert "python -m randlabels.run -m model=mlp,wrn &#39;name=a b&#39;\n" in configuration


def test_tables_of_the_report_begin_with_the_result(sweep: Path) -> None:
    """Shared keys are in the caption; the level comes first, then the result."""
    found, tables = collect.collect(sweep)
    shown = report.describe(found, tables)["tables"][0]
    assert [name for name, _ in shown["columns"]] == ["corrupt", "test error (%)"]
    assert shown["same"].startswith("dataset digits, model mlp, corruption uniform, n 2, n_done 2")


def test_report_begins_with_what_came_out(sweep: Path, tmp_path: Path) -> None:
    _, tables = collect.collect(sweep)
    assert report.conclude(tables) == (
        "3 of the 4 runs that are done fitted the labels that they were trained on; at corrupt = "
        "1, 1 of 2 did. The test error is 9.5 % at corrupt = 0 and 89.5 % at corrupt = 1."
    )
    write_run(tmp_path / "b", [0.5], state="failed")
    assert report.conclude(collect.collect(tmp_path / "b")[1]) == "No run is done yet."


@pytest.mark.parametrize(("peak", "top"), [(57.0, 1.1 * math.log(10)), (4.0, None)])
def test_the_peak_of_one_epoch_does_not_flatten_the_learning_curves(
    peak: float, top: float | None, tmp_path: Path
) -> None:
    """The axis still includes a moderate peak, and the loss of a network that guesses."""
    run = write_run(tmp_path, [0.5] * 100)
    write_json(run.corruption, {"classes": 10})
    lines = [
        json.loads(line) | {"train_loss": 1.0} for line in run.metrics.read_text().splitlines()
    ]
    lines[0]["train_loss"] = peak
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    figure = figures.learning_curves(collect.collect(tmp_path)[0])
    shown = figure.axes[0].get_ylim()[1]
    assert shown == pytest.approx(top) if top else shown > peak


def test_legend_names_a_level_whose_labels_are_all_corrupted(tmp_path: Path) -> None:
    """If no label is unchanged, the legend can name only the dashed curve."""
    for level in (0.5, 1.0):
        run = write_run(tmp_path, [0.5, 0.75, 1.0], corrupt=level)
        lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
        for line in lines:
            line |= {"train_acc_corrupted": 0.5, "train_acc_clean": None if level == 1 else 0.5}
        run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, _ = collect.collect(tmp_path)
    figure, _ = figures.build(found)["clean_and_corrupted"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0.5", "1"]


def test_single_run_has_no_error_bar_next_to_several(tmp_path: Path) -> None:
    for level, seeds in ((0.0, 1), (0.5, 3)):
        for seed in range(seeds):
            write_run(tmp_path, [0.5, 1.0], corrupt=level, seed=seed)
    figure, _ = figures.build(collect.collect(tmp_path)[0])["test_error"]
    (bars,) = figure.axes[0].containers[0].lines[2]
    lengths = [np.ptp(segment[:, 1]) for segment in bars.get_segments() if len(segment)]
    assert [length for length in lengths if not np.isnan(length)] == [pytest.approx(2.0)]


def test_level_has_one_colour_in_all_figures(tmp_path: Path) -> None:
    """Levels are in all figures, and some series lack a level."""
    for level in (0.0, 0.2, 1.0):
        run = write_run(tmp_path, [0.5, 0.75], corrupt=level)
        lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
        for line in lines:
            line |= {"train_acc_corrupted": 0.5, "train_acc_clean": 0.5}
        run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, _ = collect.collect(tmp_path)
    colours: dict[str, set[str]] = {}
    drawn = figures.build(found)
    for name in ("learning_curves", "clean_and_corrupted"):
        for line in drawn[name][0].axes[0].lines:
            colours.setdefault(line.get_label(), set()).add(to_hex(line.get_color()))
    assert sorted(colours) == ["0", "0.2", "1"]
    assert {len(of_level) for of_level in colours.values()} == {1}
    assert len(set.union(*colours.values())) == 3


def test_legend_is_whole_and_in_the_order_of_the_lists(tmp_path: Path) -> None:
    for widths in ([256], [16], [64], [1024, 1024, 1024, 1024, 1024, 1024, 1024]):
        model = {"name": "mlp", "hidden": widths}
        write_run(tmp_path, [0.5, 1.0], model=model, optimizer={"lr": 0.01 + widths[0] / 1e4})
    figure, _ = figures.build(collect.collect(tmp_path)[0])["test_error"]
    figure.draw_without_rendering()
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert [int(re.findall(r"\d+", name)[0]) for name in names] == [16, 64, 256, 1024]
    box = legend.get_window_extent()
    assert 0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


def test_backend_of_a_notebook_does_not_disturb_the_report(sweep: Path) -> None:
    environment = os.environ | {"MPLBACKEND": "module://not_installed_here.backend"}
    command = [sys.executable, "-m", "analysis.report", str(sweep)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_any_key_that_differs_can_be_the_x_axis(tmp_path: Path, capsys) -> None:
    """A width follows from `parameters`; levels keep their colours; a wide span is logarithmic."""
    for width in (8, 64, 512):
        for level in (0.0, 1.0):
            model = {"name": "mlp", "hidden": [width]}
            run = write_run(tmp_path, [0.5, 1.0], model=model, corrupt=level)
            write_json(run.done, json.loads(run.done.read_text()) | {"parameters": 74 * width})
    found, _ = collect.collect(tmp_path)
    for key, expected in (("model.hidden", [8, 64, 512]), ("parameters", [592, 4736, 37888])):
        drawn = figures.build(found, x=key)
        assert {"test_error", "train_error", "test_loss", "epochs_to_fit"} < set(drawn)
        (panel,) = drawn["test_error"][0].axes
        assert panel.get_xscale() == "log" and panel.get_xlabel() == key
        lines = {curve.get_label(): curve.lines[0] for curve in panel.containers}
        assert {name: line.get_xdata().tolist() for name, line in lines.items()} == {
            "0": expected,
            "1": expected,
        }
        assert lines["1"].get_color() == level_colour(1.0)
    report.main([str(tmp_path), "--x", "model.hidden"])
    assert f"{tmp_path}/summary/report_by_model.hidden.html" in capsys.readouterr().out
    for key in ("nosuch", "batch_size", "seed"):
        sentence = f"^Error: --x={key} must be .*; use corrupt, model.hidden, parameters$"
        with pytest.raises(SystemExit, match=sentence):
            report.main([str(tmp_path), "--x", key])


def test_values_that_are_not_numbers_stand_in_their_order(tmp_path: Path) -> None:
    """Also null, which is last; each network has a panel."""
    for model in ("mlp", "linear"):
        for size in (50, 8, None):
            dataset = {"name": "digits", "train_size": size}
            write_run(tmp_path, [0.5, 1.0], model={"name": model}, dataset=dataset)
    figure, _ = figures.build(collect.collect(tmp_path)[0], x="dataset.train_size")["test_error"]
    assert [panel.get_title("left") for panel in figure.axes] == ["linear", "mlp"]
    for panel in figure.axes:
        assert [text.get_text() for text in panel.get_xticklabels()] == ["8", "50", "null"]
        assert panel.containers[0].lines[0].get_xdata().tolist() == [0, 1, 2]

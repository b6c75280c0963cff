"""Collect over damage: a bad folder is named, left out, and spoils nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from analysis import collect, formats, status

from .synthetic import table, write_run, write_seeds

SPOILERS = {
    "negative epoch": lambda run: run.metrics.write_text(
        run.metrics.read_text().replace("0,", "-1,", 1)
    ),
    "far epoch": lambda run: run.metrics.write_text(
        run.metrics.read_text().replace('"epoch": 1', '"epoch": 1000000000000')
    ),
    "log is a folder": lambda run: (run.metrics.unlink(), run.metrics.mkdir()),
    "log is a dangling link": lambda run: (run.metrics.unlink(), run.metrics.symlink_to("gone")),
    "log is missing": lambda run: run.metrics.unlink(),
    "log is short": lambda run: run.metrics.write_text(
        run.metrics.read_text().splitlines()[0] + "\n"
    ),
    "log is doubled": lambda run: run.metrics.write_text(2 * run.metrics.read_text()),
    "text for a number": lambda run: run.done.write_text(
        re.sub(r'"test_acc": [\d.]+', '"test_acc": "x"', run.done.read_text())
    ),
    "a date": lambda run: run.config.write_text(run.config.read_text() + "when: 2026-11-22\n"),
    "no epochs": lambda run: run.config.write_text(
        re.sub("(?m)^epochs: .*$", "", run.config.read_text())
    ),
    "link to itself": lambda run: (run.path / "again").symlink_to(run.path),
    "plan of bytes": lambda run: (run.path.parent / "plan.jsonl").write_bytes(
        b'\xff\n{"run_id": 5}\n'
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPOILERS)
def test_one_bad_folder_spoils_nothing_else(kind: str, sweep: Path, capsys) -> None:
    """The means of the other runs stay right, and nothing is counted twice."""
    before = table(sweep, "test_error").set_index("corrupt")
    bad = write_run(sweep, [0.5, 0.6, 0.7], corrupt=0.0, seed=7)
    SPOILERS[kind](bad)
    (sweep / "loop").symlink_to(sweep)
    collect.main([str(sweep)])
    status.main([str(sweep)])
    shown = capsys.readouterr().out
    found = pd.read_csv(sweep / "summary" / "test_error.csv").set_index("corrupt")
    curves = pd.read_csv(sweep / "summary" / "corruption_vs_epochs.csv").set_index("corrupt")
    assert curves.loc[1.0, ["0", "1", "2"]].tolist() == pytest.approx([0.2, 0.6, 0.95])
    if kind in ("link to itself", "plan of bytes"):
        assert found.loc[0.0, "n_done"] == 3
    else:
        assert found.loc[0.0, "n_done"] == 2 and str(bad.path) in shown
        expected = pytest.approx(before.loc[0.0, "test_error_mean"], rel=1e-14)  # read_csv rounds
        assert found.loc[0.0, "test_error_mean"] == expected
        assert curves.loc[0.0, ["0", "1", "2"]].tolist() == pytest.approx([0.75, 1.0, 1.0])


def test_damaged_run_leaves_no_trace_in_the_records(tmp_path: Path) -> None:
    """epochs.csv is the table without that run; Arrow writes an empty first chunk as garbage."""
    write_seeds(tmp_path / "runs", range(3))
    collect.main([str(tmp_path / "runs"), "--out", str(tmp_path / "whole")])
    lines = (tmp_path / "whole" / "epochs.csv").read_bytes().splitlines()
    first = lines[1].partition(b",")[0]
    log = tmp_path / "runs" / first.decode() / "metrics.jsonl"
    log.write_text(log.read_text().replace('"lr": 0.1', '"lr": "x"'))
    collect.main([str(tmp_path / "runs")])
    found = (tmp_path / "runs" / "summary" / "epochs.csv").read_bytes().splitlines()
    assert found == [line for line in lines if not line.startswith(first)]
    records = pa.table({"epoch": [0, 1]})
    parts = pa.concat_tables([records.slice(2), records])
    formats.write_csv(parts, tmp_path / "parts.csv")
    assert (tmp_path / "parts.csv").read_text() == "epoch\n0\n1\n"


@pytest.mark.slow
def test_plan_that_cannot_be_read_is_a_warning(sweep: Path, capsys) -> None:
    """A folder of this name, a file of another program, a run without its config."""
    contents_of_plan: list[tuple[Callable[[Path], object], str]] = [
        (lambda plan: plan.mkdir(), "plan.jsonl is skipped: Is a directory; runs without a folder"),
        (lambda plan: plan.write_bytes(b"\xff[1]\n"), "it was not written by randlabels"),
        (lambda plan: plan.write_text('{"run_id": "a"}\n'), "run a is skipped: no whole config"),
    ]
    for spoil, sentence in contents_of_plan:
        spoil(sweep / "plan.jsonl")
        collect.main([str(sweep)])
        assert sentence in capsys.readouterr().out
        status.main([str(sweep)])
        assert sentence in capsys.readouterr().out.replace("\n", " ")
        if (sweep / "plan.jsonl").is_dir():
            (sweep / "plan.jsonl").rmdir()
    assert len(table(sweep, "runs")) == 4


def test_folder_without_rights_is_a_warning(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """The error is simulated, since the superuser may read every folder."""
    (sweep / "private").mkdir()
    scan = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    collect.main([str(sweep)])
    assert f"{sweep}/private is skipped: Permission denied" in capsys.readouterr().out


def test_levels_outside_their_range_and_lines_without_an_epoch_are_damage(tmp_path: Path) -> None:
    level, line = (write_run(tmp_path, [0.5], seed=seed) for seed in (0, 1))
    level.config.write_text(level.config.read_text().replace("corrupt: 0.0", "corrupt: 2.0"))
    line.metrics.write_text('{"train_acc": 0.5}\n')
    write_run(tmp_path, [0.5], seed=2)
    found, _ = collect.collect(tmp_path)
    problems = "\n".join(found.problems)
    assert "epochs or corrupt in config.yaml is out of range" in problems
    assert "a line is not a record" in problems

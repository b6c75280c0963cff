"""docs/course.md: its code runs on the folders that its sweeps write."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import randlabels

from .conftest import BASIC

PAGE = (Path(__file__).parent.parent / "docs" / "course.md").read_text()
TINY = [BASIC, "dataset.train_size=64", "epochs=2", "eval_every=1"]


def test_code_on_the_page_draws_the_line_through_two_finished_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ends are the networks themselves, whose metrics the runs recorded."""
    assert len(PAGE.splitlines()) <= 60
    monkeypatch.chdir(tmp_path)
    parameters = ["sweep=course/parameters_mini", "model.hidden=[1],[8]", "name=course-parameters"]
    randlabels.sweep(*TINY, *parameters)
    flatness = ["sweep=course/flatness_mini", "model.hidden=[8]", "batch_size=8,64", "seed=0"]
    runs = randlabels.sweep(*TINY, *flatness, "sensitivity=4", "name=course-flatness")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(block, names)
    line = {(alpha, name): values for alpha, name, *values in names["line"]}
    for alpha, batch in ((0.0, 8), (1.0, 64)):
        (run,) = runs[runs["batch_size"] == batch].to_dict("records")
        for name in ("train", "test"):
            recorded = [run[f"final_{name}_loss"], run[f"final_{name}_acc"]]
            assert line[alpha, name] == pytest.approx(recorded, rel=1e-4)
    assert (runs["final_loss_sensitivity"] > 0).all()

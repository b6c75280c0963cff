"""Stored results: which runs a number comes from, and that others can compute it again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from analysis import compare, published
from analysis.collect import collect
from randlabels.store import provenance

from .synthetic import write_run

ORIGINAL_MLP = {"dataset": {"name": "cifar10"}, "corrupt": 1.0}


def test_comparison_says_what_our_runs_were_computed_with(tmp_path: Path) -> None:
    """Runs that differ in it are all named; a number without runs has none."""
    for seed, precision in enumerate(["fp32", "bf16"]):
        run = write_run(tmp_path, [0.1] * 300, **ORIGINAL_MLP, seed=seed)
        environment = json.loads(run.environment.read_text())
        environment |= {"precision": precision, "device_name": "AMD EPYC"}
        environment["argv"] = ["run.py", "-m", "sweep=seed/readme"]
        run.environment.write_text(json.dumps(environment))
    numbers = published.read("seed")
    table = compare.compare(collect(tmp_path)[0], numbers).set_index("row")
    mlp, network = table.loc["MLP 512, random labels"], table.loc["WRN-28-1, true labels"]
    expected = {
        "used_device": "cpu",
        "used_precision": "bf16, fp32",
        "device_name": "AMD EPYC",
        "git": "a" * 12,
        "command": "python -m randlabels.run -m sweep=seed/readme",
    }
    for column, value in expected.items():
        assert set(mlp[column]) == {value}
        assert set(network[column]) == {""}


def test_environment_names_no_folder_of_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/someone/randlabels/run.py", "corrupt=0.5"])
    assert provenance.describe({"device": "cpu"})["argv"] == ["run.py", "corrupt=0.5"]

"""A batch of runs: what is checked before the first starts, and the plan that is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from randlabels import exact
from randlabels.launchers import batch
from randlabels.models.kernel import Kernel

from .conftest import TINY, Cli

KERNEL = ["-m", "dataset=digits", "model=kernel"]


def test_what_runs_have_in_common_is_checked_once(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels by data set, corruption and level; models by device, precision, data and model."""
    checks: dict[str, list[Any]] = {"relabel": [], "check_model": []}
    for name, seen in checks.items():
        original = getattr(batch, name)

        def counted(config, *arguments, original=original, seen=seen, **options):
            seen.append((config.dataset.name, config.corrupt, config.model.name, config.precision))
            return original(config, *arguments, **options)

        monkeypatch.setattr(batch, name, counted)
    trained = ["-m", *TINY[:1], *TINY[3:], "model=mlp,linear", "precision=fp32,bf16"]
    outcome = cli(*trained, "seed=0,1", "corrupt=0.0,0.5,1.0", "plan=true")
    assert "24 runs" in outcome.out
    assert [level for _, level, _, _ in checks["relabel"]] == [0.0, 0.5, 1.0]
    models = [(name, precision) for _, _, name, precision in checks["check_model"]]
    assert sorted(models) == [
        (name, precision) for name in ("linear", "mlp") for precision in ("bf16", "fp32")
    ]


def test_sweep_is_refused_for_one_precision_before_any_run_starts(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is memory for the system in fp32, which comes first, and not in fp64."""
    check, needed = Kernel.check, []

    def noted(*arguments: Any, **options: Any) -> int:
        needed.append(check(*arguments, **options))
        return needed[-1]

    monkeypatch.setattr(Kernel, "check", noted)
    assert cli(*KERNEL, "precision=fp32", "plan=true").code == 0
    monkeypatch.setattr(exact, "free_memory", lambda device: needed[0])
    refused = cli(*KERNEL, "precision=fp32,fp64")
    assert refused.code == 1 and len(needed) == 3
    assert refused.err.startswith("Error: model=kernel on 1,442 images in fp64 needs ")
    assert list(tmp_path.iterdir()) == []
    assert cli(*KERNEL, "precision=fp32").code == 0


def test_plan_counts_an_exact_fit_once(cli: Cli) -> None:
    """1,442 images solved for once, beside 64 of them trained on twice."""
    digits = "dataset: digits, model"
    small = f"{digits}: mlp, epochs: 2, dataset.train_size: 64"
    shown = cli("-m", f"hydra.sweeper.runs=[{{{digits}: kernel}}, {{{small}}}]", "plan=true").out
    assert "In all 1,570 training images to go" in shown
    assert re.findall(r"(\d+) │ +([\d,]+) │ +([\d,]+) │$", shown, re.M) == [
        ("1", "1,442", "1,442"),
        ("2", "64", "128"),
    ]

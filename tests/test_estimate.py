"""How long a plan says that its runs take: from done runs, or from a short measurement."""

from __future__ import annotations

from pathlib import Path

import pytest

from randlabels.config import parse
from randlabels.launchers import launch
from randlabels.store import rundir

from .conftest import TINY, Cli


@pytest.mark.slow
def test_planned_hours_are_epochs_times_the_seconds_of_a_done_run(cli: Cli, tmp_path: Path) -> None:
    """It took 30 minutes an epoch. Two workers need at least the time of the longest run."""
    sweep = ["-m", *TINY[:4], "hydra.launcher.n_jobs=2"]
    assert cli(*sweep, "epochs=2").code == 0
    (done,) = tmp_path.glob("runs/*/*/done.json")
    result = rundir.read_json(done)
    assert result is not None
    rundir.write_json(done, {**result, "seconds": 1800.0 * 2})
    runs = "hydra.sweeper.runs=[{seed: 0, epochs: 2}, {seed: 1, epochs: 4}, {seed: 2, epochs: 10}]"
    planned = cli(*sweep, runs, "plan=true").out
    assert "About 5.0 h with 2 workers, an estimate from runs done in runs/default." in planned


def test_measurement_counts_training_and_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """256 images in 2 s, and 256 + 256 in half a second; evaluated every fourth epoch."""
    tree = {"dataset": {"name": "digits"}, "model": {"name": "mlp", "hidden": [8]}}
    config = parse({**tree, "batch_size": 64, "eval_every": 4})
    record = {"seconds": 2.5, "images_per_second": 128.0}
    monkeypatch.setattr(launch.fit, "sgd", lambda *arguments: iter([record]))
    expected = 1442 / 128 + 0.5 * (1442 + 355) / 512 / 4
    assert launch.measure_epoch(config, None) == pytest.approx(expected)


def test_measured_epoch_is_as_long_as_a_trained_one(cli: Cli, tmp_path: Path) -> None:
    """Within a factor of ten, on a machine that does other things too."""
    planned = cli(*TINY[:3], "epochs=2", "plan=true").out
    assert "an estimate from a short measurement." in planned
    tree = {"dataset": {"name": "digits"}, "model": {"name": "mlp", "hidden": [8]}}
    assert cli(*TINY[:3], "epochs=2").code == 0
    (done,) = tmp_path.glob("runs/*/*/done.json")
    seconds = (rundir.read_json(done) or {})["seconds"] / 2
    assert seconds / 10 < launch.measure_epoch(parse(tree), None) < 10 * seconds

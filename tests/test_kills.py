"""SIGKILL at any moment: what was computed is kept, and the numbers are the undisturbed ones."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from randlabels.config import parse
from randlabels.store import metrics
from randlabels.store.rundir import RunDir

from .conftest import BASIC, final_state, untimed_lines
from .killing import ForkServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KILLS = 100

SWEEP = ["-m", BASIC, "dataset=digits", "model=mlp", "model.hidden=[16]", "augment=crop_flip"]
SWEEP += ["dataset.train_size=256", "corrupt=0.0,1.0", "seed=0,1", "epochs=40", "threads=1"]
SWEEP += ["checkpoint_every=0"]


def runs_by_id(root: Path) -> dict[str, RunDir]:
    return {file.parent.name: RunDir(file.parent) for file in root.glob("*/*/config.yaml")}


def assert_undisturbed(
    found: dict[str, RunDir], undisturbed: dict[str, RunDir], epochs: int
) -> None:
    assert set(found) == set(undisturbed)
    for run_id, run in found.items():
        assert run.state() == "done"
        assert untimed_lines(run.path) == untimed_lines(undisturbed[run_id].path)
        assert final_state(run) == final_state(undisturbed[run_id])
        assert [r["epoch"] for r in metrics.read(run.metrics)[0]] == list(range(epochs))
        assert not list(run.path.glob(".*.tmp"))


def logged_epochs(run: RunDir) -> list[str]:
    """Return the epochs that a run completed, over all its executions, in order."""
    return re.findall(r"^(\d{3}): Acc-tr", run.log.read_text(), re.M)


def test_sweep_killed_at_random_a_hundred_times_ends_with_the_undisturbed_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Each epoch is committed, so none is ever completed twice."""
    rng = random.Random(0)
    kills = sweeps = torn = resumed = 0
    with ForkServer(tmp_path) as server:
        assert server.execute([*SWEEP, "out=undisturbed"])["code"] == 0
        undisturbed = runs_by_id(tmp_path / "undisturbed")
        assert len(undisturbed) == 4
        while kills < KILLS:
            out, left = f"out=sweep{sweeps}", tmp_path / f"sweep{sweeps}"
            while True:
                wanted = rng.uniform(0.0, 0.03) if kills < KILLS else None
                ended = server.execute([*SWEEP, out], seconds=wanted, number=rng.randrange(80))
                if ended["signal"] == 0:
                    assert ended["code"] == 0
                    break
                kills += 1
                for run in runs_by_id(left).values():  # what a kill of the machine may leave
                    if rng.random() < 0.2 and run.state() == "interrupted" and run.metrics.exists():
                        torn += 1
                        with open(run.metrics, "a") as file:
                            file.write('{"epoch": 99, "lr"')
            assert_undisturbed(runs_by_id(left), undisturbed, 40)
            for run in runs_by_id(left).values():
                assert len(set(logged_epochs(run))) == len(logged_epochs(run))
                resumed += run.log.read_text().count("Resuming after epoch")
            sweeps += 1
        assert resumed > KILLS / 4  # the others fell where nothing was committed yet
    with capsys.disabled():
        print(f"\n{kills} kills over {sweeps} sweeps of 4 runs, {resumed} times resumed, ", end="")
        print(f"{torn} torn logs: equal numbers")


def test_kill_at_every_point_of_the_write_sequence_loses_nothing_that_was_committed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The kill comes before or after each fsync and each replace of a run of two epochs."""
    config = {
        "dataset": {"name": "digits", "train_size": 64},
        "model": {"name": "mlp", "hidden": [8]},
        "epochs": 2,
        "threads": "1",
        "checkpoint_every": 0,
    }
    with ForkServer(tmp_path) as server:
        whole = server.execute({**config, "out": "undisturbed"})
        assert whole["code"] == 0 and whole["calls"] >= 30
        undisturbed = runs_by_id(tmp_path / "undisturbed")
        for call in range(1, whole["calls"] + 1):
            for after in (False, True):
                out = f"killed-{call}-{after}"
                killed = server.execute({**config, "out": out}, call=call, after=after)
                assert killed["signal"] == 9
                run = parse({**config, "out": str(tmp_path / out)}).run
                # The last point lies behind the last write, done.json.
                assert run.state() in ("planned", "interrupted", "done")
                assert server.execute({**config, "out": out})["code"] == 0
                assert_undisturbed(runs_by_id(tmp_path / out), undisturbed, 2)
                assert len(set(logged_epochs(run))) == len(logged_epochs(run))
    with capsys.disabled():
        print(f"\n{2 * whole['calls']} points of the write sequence: equal numbers after each kill")

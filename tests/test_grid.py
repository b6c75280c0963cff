"""Grids: from lists of values on the command line and in sweep files to runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from randlabels.launchers.grid import expand

from .conftest import BASIC, TINY, Cli


def test_lists_of_the_command_line_form_a_product() -> None:
    assert expand(["a=1,2", "b=x", "model=wrn,mlp"], []) == [
        ["a=1", "b=x", "model=wrn"],
        ["a=1", "b=x", "model=mlp"],
        ["a=2", "b=x", "model=wrn"],
        ["a=2", "b=x", "model=mlp"],
    ]


def test_grids_need_not_form_a_product_and_the_command_line_wins() -> None:
    grids = [{"model": "wrn", "corrupt": "0.0,1.0"}, {"model": "mlp", "corrupt": 1.0}]
    assert expand(["epochs=2"], grids) == [
        ["model=wrn", "corrupt=0.0", "epochs=2"],
        ["model=wrn", "corrupt=1.0", "epochs=2"],
        ["model=mlp", "corrupt=1.0", "epochs=2"],
    ]
    assert expand(["corrupt=0.5"], grids) == [
        ["model=wrn", "corrupt=0.5"],
        ["model=mlp", "corrupt=0.5"],
    ]


def test_ranges_and_bracketed_lists_keep_hydras_meaning() -> None:
    assert expand(["seed=range(0,3)"], []) == [["seed=0"], ["seed=1"], ["seed=2"]]
    assert expand(["model.hidden=[8],[8,8]"], []) == [["model.hidden=[8]"], ["model.hidden=[8,8]"]]
    assert expand([], [{"model.hidden": "[8,8]"}]) == [["model.hidden=[8,8]"]]


def test_option_on_the_command_line_replaces_the_keys_of_its_group_in_a_grid() -> None:
    grids = [{"model": "wrn", "model.depth": 10, "corrupt": "0.0,1.0"}]
    assert expand(["model=mlp"], grids) == [
        ["corrupt=0.0", "model=mlp"],
        ["corrupt=1.0", "model=mlp"],
    ]


def test_empty_list_and_several_committed_sweeps_are_refused(cli: Cli) -> None:
    assert cli("-m", *TINY, "seed=range(0,0)").err.endswith("one of its lists is empty\n")
    outcome = cli("-m", "sweep=demo,seed/readme")
    assert outcome.err == (
        "Error: sweep=demo,seed/readme must name one committed sweep; launch one at a time\n"
    )


def test_grid_cannot_vary_the_launcher() -> None:
    with pytest.raises(ValueError, match="must not contain hydra/launcher, which all runs share"):
        expand([], [{"hydra/launcher": "basic,joblib"}])


def test_sweep_over_an_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="must list values; use seed=a,b,c"):
        expand(["seed=interval(0,1)"], [])


def test_counts_agree_with_their_nouns(cli: Cli) -> None:
    one = [*TINY, "epochs=1"]
    assert "1 run, 1 of them to do\n" in cli("-m", *one, BASIC).out
    assert "1 run, 0 of them to do\n" in cli("-m", *one, BASIC).out
    assert cli(*one).out.startswith("Already done after 1 epoch: ")


@pytest.mark.parametrize("multirun", [["-m"], []], ids=["sweep", "run"])
def test_changing_the_working_directory_is_refused(
    multirun: list[str], cli: Cli, tmp_path: Path
) -> None:
    outcome = cli(*multirun, *TINY, BASIC, "hydra.job.chdir=true")
    assert outcome.code == 1 and list(tmp_path.iterdir()) == []
    assert outcome.err == (
        "Error: hydra.job.chdir=true must be false: all paths are relative to the working "
        "directory; use out=FOLDER to choose where results go\n"
    )


@pytest.mark.parametrize("sweeper", ["basic", "mine"])
def test_other_sweepers_are_refused_before_anything_is_written(
    sweeper: str, cli: Cli, tmp_path: Path
) -> None:
    """This includes a sweeper that a user's config file chooses."""
    target = "_target_: hydra._internal.core_plugins.basic_sweeper.BasicSweeper\nmax_batch_size: 1"
    folder = tmp_path / "conf" / "hydra" / "sweeper"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(target)
    own = ["--config-dir", str(tmp_path / "conf")]
    outcome = cli(*own, "-m", *TINY, f"hydra/sweeper={sweeper}", "seed=0,1")
    assert outcome.code == 1 and [file.name for file in tmp_path.iterdir()] == ["conf"]
    assert outcome.err == (
        "Error: hydra/sweeper must be grid, which checks and plans all runs; "
        "leave hydra/sweeper out\n"
    )

"""Grids: from lists of values on the command line and in sweep files to runs."""

from __future__ import annotations

import pytest

from randlabels.launchers.grid import expand

from .conftest import BASIC, TINY, Cli


def test_lists_of_the_command_line_multiply() -> None:
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


def test_another_option_on_the_command_line_drops_the_grids_keys_of_its_group() -> None:
    grids = [{"model": "wrn", "model.depth": 10, "corrupt": "0.0,1.0"}]
    assert expand(["model=mlp"], grids) == [
        ["corrupt=0.0", "model=mlp"],
        ["corrupt=1.0", "model=mlp"],
    ]


def test_an_empty_list_and_several_committed_sweeps_are_refused(cli: Cli) -> None:
    assert cli("-m", *TINY, "seed=range(0,0)").err.endswith("one of its lists is empty\n")
    outcome = cli("-m", "sweep=demo,seed/readme")
    assert (
        outcome.err == "Error: sweep=demo,seed/readme names several sweeps; launch one at a time\n"
    )


def test_a_grid_cannot_vary_the_launcher() -> None:
    with pytest.raises(ValueError, match="hydra/launcher, which one launch cannot vary"):
        expand([], [{"hydra/launcher": "basic,joblib"}])
    with pytest.raises(ValueError, match="is no list of values"):
        expand(["seed=interval(0,1)"], [])


def test_one_run_is_no_plural(cli: Cli) -> None:
    one = [*TINY, "epochs=1"]
    assert "1 run, 1 of them to do\n" in cli("-m", *one, BASIC).out
    assert "1 run, 0 of them to do\n" in cli("-m", *one, BASIC).out
    assert cli(*one).out.startswith("Already done after 1 epoch: ")

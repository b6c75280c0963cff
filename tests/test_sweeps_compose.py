"""Every committed sweep: its runs compose, train, and cover the numbers it is named after."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from analysis import published
from randlabels import experiment, fit, solve
from randlabels.cli import CONF, options_help, prepare_hydra
from randlabels.config import Config, parse_composed
from randlabels.dataset import Data, Split
from randlabels.launchers.grid import Composer, expand
from randlabels.randomness import generator
from randlabels.registry import DEFAULTS
from randlabels.store.rundir import flat_keys

from .conftest import CPU
from .sources import balanced, make_source

prepare_hydra()

SWEEPS = sorted(
    file.relative_to(CONF / "sweep").with_suffix("").as_posix()
    for file in (CONF / "sweep").rglob("*.yaml")
)
IMAGES = {"colour": (3, 32, 32), "grey": (1, 28, 28)}


@cache
def runs_of(sweep: str) -> list[Config]:
    """The runs of a committed sweep, composed as the command line does."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        arguments, loader = [f"sweep={sweep}"], hydra.config_loader
        launch = hydra.compose_config("config", arguments, run_mode=RunMode.MULTIRUN)
        composer = Composer(loader, launch)
        grids = OmegaConf.to_object(launch.hydra.sweeper.runs)
        return [
            parse_composed(*composer.tree(overrides))
            for overrides in expand(arguments, grids, loader)
        ]


def random_data(shape: tuple[int, int, int], classes: int) -> Data:
    rng = generator("synthetic", 0)

    def split(size: int) -> Split:
        images = torch.randint(0, 256, (size, *shape), dtype=torch.uint8, generator=rng)
        return Split(images, torch.arange(size) % classes)

    return Data(split(8), split(4), classes)


def one_of_each_kind(configs: list[Config]) -> list[Config]:
    """One run for each combination of options, at its largest level of corruption."""
    found = {}
    for config in sorted(configs, key=lambda config: config.corrupt):
        found[tuple(getattr(config, group).name for group in DEFAULTS)] = config
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("sweep", SWEEPS)
def test_sweep_composes_into_runs_that_all_differ(sweep: str) -> None:
    configs = runs_of(sweep)
    assert len({config.run_id for config in configs}) == len(configs) > 1
    assert len({config.folder for config in configs}) == 1


@pytest.mark.parametrize("sweep", SWEEPS)
def test_sweep_states_its_number_of_runs_and_its_cost(sweep: str) -> None:
    """A miniature takes at most ten minutes."""
    lines = (CONF / "sweep" / f"{sweep}.yaml").read_text().splitlines()
    header = " ".join(line for line in lines if line.startswith("#"))
    stated = re.search(r"(\d+) runs", header)
    assert stated is not None and int(stated[1]) == len(runs_of(sweep))
    assert re.search(r"(minute|hour|day)s?\b", header) and re.search(r"\b(cores?|CPU)\b", header)
    if sweep.endswith("_mini"):
        minutes = re.search(r"about (\d+) minutes on two CPU cores", header)
        assert minutes is not None and int(minutes[1]) <= 10


MINIATURES = [f"paper/{name}" for name in ("figure1a", "figure1b", "figure1c", "figure2b")]
MINIATURES += ["paper/table1", "paper/table4", "seed/readme", "noise/compare"]
MINIATURES += [f"course/{name}" for name in ("random_labels", "parameters", "flatness")]
MINIATURES += ["double_descent/mnist", "memorisation/arpit"]


@pytest.mark.parametrize("sweep", MINIATURES)
def test_miniature_has_a_run_for_each_kind_of_run(sweep: str) -> None:
    """They have the same network, except for noise/compare, whose miniature has a smaller one."""

    def told_apart(config: Config) -> tuple[Any, ...]:
        network = config.model.name, len(getattr(config.model, "hidden", []))
        decay = config.optimizer.weight_decay > 0
        kind = config.corruption.name, config.augment.name, decay
        return kind if sweep == "noise/compare" else (*network, *kind)

    assert {*map(told_apart, runs_of(f"{sweep}_mini"))} == {*map(told_apart, runs_of(sweep))}


@pytest.mark.parametrize("ending", ["", "_mini"])
def test_noise_models_are_compared_at_equal_shares_of_changed_labels(ending: str) -> None:
    """The shares follow from the stated transition matrices, for classes of equal size."""
    shares: dict[float, set[str]] = {}
    for config in runs_of(f"noise/compare{ending}"):
        labels = balanced(10_000)
        of = make_source(labels, dataset=config.dataset.name)
        kept = np.diag(config.corruption.transition(of, config.corrupt)).mean()
        shares.setdefault(round(1 - kept, 2), set()).add(config.corruption.name)
        assert 1 - kept == pytest.approx(round(1 - kept, 2), abs=0.0025)
    kinds = {"uniform", "uniform_exclusive", "pair_flip", "asymmetric", "instance"}
    assert shares == {0.0: {"uniform"}, 0.2: kinds, 0.4: kinds}


@pytest.mark.slow
@pytest.mark.parametrize("colour", IMAGES)
@pytest.mark.parametrize("sweep", SWEEPS)
def test_sweep_trains_two_steps(sweep: str, colour: str, use_data: Callable[[Data], None]) -> None:
    """One run of each kind, on synthetic images of the size of CIFAR-10's and of MNIST's."""
    for config in one_of_each_kind(runs_of(sweep)):
        data = random_data(IMAGES[colour], 100 if config.dataset.name == "cifar100" else 10)
        use_data(data)
        if config.exact:
            continue  # solved, below
        config = shorten(config)
        assembled = experiment.assemble(config)
        state, steps = fit.start(assembled, CPU), count()
        (record,) = fit.sgd(assembled, state, CPU, lambda steps=steps: next(steps))
        assert next(steps) == 2 and record["train_acc"] is not None


@pytest.mark.slow
@pytest.mark.parametrize("colour", IMAGES)
@pytest.mark.parametrize("sweep", SWEEPS)
def test_sweep_solves_its_exact_fits(
    sweep: str, colour: str, use_data: Callable[[Data], None]
) -> None:
    data = random_data(IMAGES[colour], 10)
    use_data(data)
    for config in runs_of(sweep):
        if config.exact:
            dataset = dataclasses.replace(config.dataset, train_size=None, test_size=None)
            sizes = {"filters": 40} if config.model.features == "random_conv" else {}
            model = dataclasses.replace(config.model, **sizes)
            assembled = experiment.assemble(
                dataclasses.replace(config, dataset=dataset, model=model)
            )
            ((record, _),) = solve.solve([assembled], CPU)
            assert record["train_acc"] is not None


def shorten(config: Config) -> Config:
    """The same run, for two steps on the eight images of `synthetic`."""
    dataset = dataclasses.replace(config.dataset, train_size=None, test_size=None)
    return dataclasses.replace(config, dataset=dataset, epochs=1, batch_size=4, eval_every=1)


COVERED = {
    "seed/readme": ("seed", {"original code, README": 212}),
    "seed/kernel_mnist": ("seed", {"original code, MNIST": 1, "mnist_1_pt_2, README": 2}),
    "paper/table3": ("paper", {"Table 3": 4, "Table 3, text": 1, "Section 5, text": 2}),
    "paper/table1": ("paper", {"Table 1": 38}),
    "paper/table4": ("paper", {"Table 4": 6}),
    "paper/figure1a": ("paper", {"Figure 1a": 57}),
    "paper/figure1b": ("paper", {"Figure 1b": 33, "Figure 1c": 33}),
    "paper/figure1c": ("paper", {"Figure 1b": 33, "Figure 1c": 33}),
    "noise/phuber_mnist": ("noise", {"dmizr/phuber, README": 12}),
    "double_descent/mnist": ("noise", {"josch14/double-descent": 3 * 58}),
}
"""The sources that a sweep covers whole, and how many numbers they have."""


@pytest.mark.slow
@pytest.mark.parametrize("sweep", COVERED)
def test_sweep_covers_every_published_number_of_its_table(sweep: str) -> None:
    target, sources = COVERED[sweep]
    keys: list[dict[str, Any]] = [flat_keys(config.tree()) for config in runs_of(sweep)]
    table = pd.DataFrame(keys, dtype=object).assign(state="done")
    table_of_numbers = published.read(target)
    for source, numbers in sources.items():
        wanted = table_of_numbers.loc[table_of_numbers["source"] == source, "keys"]
        assert len(wanted) == numbers
        for line in wanted.unique():
            assert published.covering(table, line).sum() == 1, line


@pytest.mark.parametrize(
    ("page", "folders"),
    [
        ("paper", ("paper/", "seed/")),
        ("course", ("course/", "double_descent/", "memorisation/arpit")),
    ],
)
def test_page_has_each_of_its_sweeps_with_their_numbers_of_runs(
    page: str, folders: tuple[str, ...]
) -> None:
    text = (CONF.parent / "docs" / f"{page}.md").read_text()
    rows = re.findall(r"^\|[^|]*\| `([\w/]+)` \| ([^|]+) \|.*$", text, re.M)
    listed = {*(sweep for sweep, _ in rows), *re.findall(r"`(\w+/\w+_mini)`", text)}
    assert listed == {sweep for sweep in SWEEPS if sweep.startswith(folders)}
    for sweep, stated in rows:
        assert stated == "the same" or int(stated) == len(runs_of(sweep)), sweep


@pytest.mark.parametrize("ending", ["", "_mini"])
def test_both_figures_of_corruption_levels_share_their_runs(ending: str) -> None:
    first, second = runs_of(f"paper/figure1b{ending}"), runs_of(f"paper/figure1c{ending}")
    assert [config.run.path for config in first] == [config.run.path for config in second]


def test_help_lists_a_sweep_by_its_first_sentence_alone() -> None:
    shown = options_help()
    assert all(f"  {sweep} " in shown for sweep in SWEEPS) and "sweep.hydra" not in shown
    listed = shown.split("sweep:\n")[1].split("\n\n")[0].splitlines()
    assert len(listed) == len(SWEEPS) and all(line.endswith(".") for line in listed)


def test_folder_of_sweeps_is_that_of_the_checkout() -> None:
    assert (CONF / "sweep").resolve() == Path(__file__).parent.parent / "sweeps"

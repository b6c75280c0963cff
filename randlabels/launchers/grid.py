"""The sweeper: from lists of values to runs, all checked before the first one starts."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ..cli.help import as_typed
from ..config import Config
from ..console import counted, log, logging_to
from ..machine.stopping import exit_code, launching, reason
from ..store.rundir import FINISHED
from .composer import Composer
from .packed import PackedLauncher
from .slurm import SlurmLauncher

LOCAL = ("basic", "joblib", "packed")
"""Launchers that run jobs on this machine. Exact fits are then executed here, one after the other
with all cores, so that runs which differ in their labels share one factorisation in memory."""

Grid = Mapping[str, Any]
"""Values by key, in Hydra's syntax: `0.0,0.5` lists values, `range(0,3)` counts them."""

Runs = dict[Path, tuple[Config, list[str]]]
"""Runs by folder: the config of each, and the overrides that make it."""


class GridSweeper(Sweeper):
    """`hydra/sweeper=grid`: the products of the command line's lists with each of `runs`.

    runs: grids of a committed sweep; a key given on the command line replaces theirs, and an
        option given there also replaces their keys of that group.
    """

    config: DictConfig
    hydra_context: HydraContext

    def __init__(self, runs: Sequence[Grid]) -> None:
        self.runs = runs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config = config
        self.hydra_context = hydra_context
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Check all runs, start those without a result, report, and exit with the sum of it.

        Raises:
            ValueError: some run would be refused; none was started.
            SystemExit: always otherwise; 0 if all runs are done, diverged or skipped, or submitted
                to Slurm without waiting, else 1.
        """
        loader = self.hydra_context.config_loader
        composer = Composer(loader, self.config)
        lists = expand(arguments, self.runs, loader)
        if isinstance(self.launcher, PackedLauncher) and lists:
            if not composer.tree(lists[0])[0].get("plan"):
                self.launcher.prepare()

        from ..checks import check
        from ..execute import execute_exact  # torch, for which neither --help nor `prepare` waits
        from . import launch

        runs = _by_folder(composer, lists)
        configs = [config for config, _ in runs.values()]
        if not configs:
            raise ValueError(f"{' '.join(arguments)} describes no run: one of its lists is empty")
        slurm = self.launcher if isinstance(self.launcher, SlurmLauncher) else None
        check(configs, here=slurm is None)
        to_do = [c for c in configs if c.force or c.run.state() not in FINISHED]
        if configs[0].plan:
            launch.show_plan(configs)
            if slurm:
                print(slurm.request(to_do))
            sys.exit(0)
        if slurm:
            slurm.check(to_do)
        with logging_to():
            launch.begin(configs, [overrides for _, overrides in runs.values()])
            log.info("%s, %d of them to do", counted(len(runs), "run"), len(to_do))
            for folder in sorted({config.folder for config in configs} if to_do else ()):
                log.info("Progress: python -m %s.status %s --watch", launch.ANALYSIS, folder)
        if slurm and to_do:
            slurm.submit(to_do, launch.ANALYSIS)
            if not slurm.keys.wait:
                sys.exit(0)
            to_do = []
        exact = [config for config in to_do if config.exact]
        limit = configs[0].time_limit
        with launching():
            if exact and self.config.hydra.runtime.choices["hydra/launcher"] in LOCAL:
                execute_exact(exact)
                to_do = [config for config in to_do if not config.exact]
            overrides = [runs[config.run.path][1] for config in to_do]
            errors = self._launch(to_do, overrides, limit) if to_do else {}
            stopped = reason(limit)
            if limit and any(config.run.state() == "interrupted" for config in configs):
                stopped = stopped or f"time_limit={limit:g}"  # a worker saw it come, a step ago
            code = launch.close(configs, errors, stopped)
            sys.exit(exit_code() if stopped and code else code)

    def _launch(
        self, configs: Sequence[Config], overrides: Sequence[list[str]], limit: float | None
    ) -> dict[Path, str]:
        """Execute runs up to a time limit in seconds; by folder, what was raised before a run had
        files."""
        try:
            if isinstance(self.launcher, PackedLauncher):
                return self.launcher.execute(configs, limit)
            returns = self.launcher.launch(_WhileGoingOn(overrides, limit), initial_job_idx=0)
        except Exception as error:  # a killed worker, say; what became of whom is in the files
            print(f"The launcher gave up: {error}", file=sys.stderr)
            return {}
        return {
            config.run.path: f"{type(job._return_value).__name__}: {job._return_value}"
            for config, job in zip(configs, returns, strict=False)  # fewer, if it was stopped
            if job.status == JobStatus.FAILED
        }


def _by_folder(composer: Composer, lists: Sequence[list[str]]) -> Runs:
    """The runs of lists of overrides, each once.

    Raises:
        ValueError: two of one folder differ in their data.
    """
    runs: Runs = {}
    for overrides in lists:
        config = composer.config(overrides)
        same, _ = runs.setdefault(config.run.path, (config, overrides))
        if same.dataset.folder != config.dataset.folder:
            raise ValueError(
                f"dataset.root={config.dataset.root} and {same.dataset.root} would share the "
                f"folder {config.run.path}; launch each with a name= of its own"
            )
    return runs


class _WhileGoingOn(list[list[str]]):
    """The overrides of runs; a launcher that iterates over them as it starts them is given no
    more of them once this process is to stop."""

    def __init__(self, runs: Iterable[list[str]], limit: float | None) -> None:
        super().__init__(runs)
        self.limit = limit

    def __iter__(self) -> Iterator[list[str]]:
        return itertools.takewhile(lambda _: not reason(self.limit), super().__iter__())


def expand(
    arguments: Sequence[str], grids: Sequence[Grid], loader: ConfigLoader | None = None
) -> list[list[str]]:
    """The overrides of each run: for each grid, the product of its lists and the arguments'.

    The first key varies slowest, and the arguments' keys come after the grid's.

    Raises:
        ValueError: a grid sets a key of Hydra's own, or a sweep is not a list of values.
    """
    parser = OverridesParser.create(config_loader=loader)
    given = _by_key(parser.parse_overrides(list(arguments)))
    if "sweep" in given and given["sweep"].is_sweep_override():
        raise ValueError(f"{given['sweep'].input_line} names several sweeps; launch one at a time")

    def replaced(key: str) -> bool:
        """The command line gives the key, or chooses another option for the key's group."""
        return key in given or key.partition(".")[0] in given

    runs = []
    for grid in grids or [{}]:
        if own := [key for key in grid if key.partition(".")[0].partition("/")[0] == "hydra"]:
            raise ValueError(f"runs has the key {own[0]}, which one launch cannot vary; move it up")
        lines = [f"{key}={as_typed(value)}" for key, value in grid.items() if not replaced(key)]
        choices = {**_by_key(parser.parse_overrides(lines)), **given}
        runs += [list(run) for run in itertools.product(*map(_values, choices.values()))]
    return runs


def _by_key(overrides: Sequence[Override]) -> dict[str, Override]:
    return {override.key_or_group: override for override in overrides}


def _values(override: Override) -> list[str]:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise ValueError(f"{override.input_line} is no list of values; use {key}=a,b,c")
    return [f"{key}={value}" for value in override.sweep_string_iterator()]

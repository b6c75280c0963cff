"""The sweeper: from lists of values to runs, all checked before the first one starts."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ..cli.help import as_typed
from ..config import parse_composed
from ..console import counted, log, logging_to
from ..live import showing
from ..machine.stopping import exit_code, reason
from ..schema import parse_dataclass, to_plain
from ..store.progress import Tracker
from ..store.rundir import FINISHED, flat_keys
from .composer import Composer
from .launcher import ANALYSIS, HydraLauncher, Launcher, PlannedRun
from .packed import Packed
from .slurm import Slurm

OWN_LAUNCHERS: dict[str, type[Launcher]] = {
    "hydra_plugins.randlabels.PackedLauncher": Packed,
    "hydra_plugins.randlabels.SlurmLauncher": Slurm,
}
"""Our launchers by the `_target_` in conf/hydra/launcher; Hydra itself never builds them."""

Grid = Mapping[str, Any]
"""Values by key, in Hydra's syntax: `0.0,0.5` lists values, `range(0,3)` counts them."""


class GridSweeper(Sweeper):
    """`hydra/sweeper=grid`: the product of the command line's lists with each of `runs`.

    runs: grids of a committed sweep. A key given on the command line replaces theirs, and an
        option given there also replaces their keys of that group.
    """

    config: DictConfig
    hydra_context: HydraContext

    def __init__(self, runs: Sequence[Grid]) -> None:
        self.runs = runs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Choose the launcher.

        Raises:
            ValueError: a key of the launcher or of Hydra has a wrong value.
        """
        check_settings(config.hydra)
        self.config = config
        self.hydra_context = hydra_context
        self.executor = own_launcher(config.hydra.launcher) or HydraLauncher(
            hydra_context, task_function, config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Execute the runs that the arguments describe, and exit with `launch`'s code."""
        code = self.launch(self.compose(arguments))
        self.hydra_context.callbacks.on_multirun_end(config=self.config, config_name="config")
        sys.exit(code)

    def launch(self, runs: Sequence[PlannedRun]) -> int:
        """Check all runs, start those without a result, report, and return the exit code.

        It is 0 if all runs are done, diverged, skipped, or submitted without waiting, else 1, or
        that of the signal that ended the launch.

        Raises:
            ValueError: some run would be refused; none was started.
        """
        configs = [run.config for run in runs]
        to_do = [run for run in runs if run.config.force or run.config.run.state() not in FINISHED]
        if not configs[0].plan:
            self.executor.check(to_do)

        from ..checks import check  # imports torch
        from . import launch

        check(configs, here=self.executor.local)
        if configs[0].plan:
            launch.show_plan(configs, self.executor)
            if request := self.executor.request(to_do):
                print(request)
            return 0
        with logging_to():
            launch.begin(runs)
            log.info("%s, %d of them to do", counted(len(runs), "run"), len(to_do))
            for folder in sorted({run.config.folder for run in to_do}):
                log.info("Progress: python -m %s.status %s --watch", ANALYSIS, folder)
        limit = configs[0].time_limit
        progress = Tracker(((c.run, flat_keys(c.tree())) for c, _ in to_do), launched=True)
        with nullcontext() if configs[0].verbose or not to_do else showing(progress.look):
            errors = self.executor.start(to_do, partial(reason, limit)) if to_do else {}
        if errors is None:
            return 0
        stopped = reason(limit)
        if limit and any(config.run.state() == "interrupted" for config in configs):
            stopped = stopped or f"time_limit={limit:g}"  # a worker stops before the limit
        code = launch.close(configs, errors, stopped)
        return exit_code() if stopped and code else code

    def compose(self, arguments: list[str]) -> list[PlannedRun]:
        """Return the runs that the arguments describe, each once.

        Raises:
            ValueError: there are none, or two runs of one folder differ in their data.
        """
        loader = self.hydra_context.config_loader
        composer = Composer(loader, self.config)
        runs: dict[Path, PlannedRun] = {}
        for overrides in expand(arguments, self.runs, loader):
            config = parse_composed(*composer.tree(overrides))
            same = runs.setdefault(config.run.path, PlannedRun(config, overrides)).config
            if same.dataset.folder != config.dataset.folder:
                raise ValueError(
                    f"dataset.root={config.dataset.root} and {same.dataset.root} would share "
                    f"the folder {config.run.path}; launch them with different values of name"
                )
        if not runs:
            raise ValueError(f"{' '.join(arguments)} describes no run: one of its lists is empty")
        return list(runs.values())


def check_settings(settings: HydraConf) -> None:
    """Raise ValueError if one of Hydra's own settings would put results elsewhere."""
    if settings.job.chdir:
        raise ValueError(
            "hydra.job.chdir=true must be false: all paths are relative to the working directory; "
            "use out=FOLDER to choose where results go"
        )


def own_launcher(keys: DictConfig | str) -> Launcher | None:
    """Return the launcher that `hydra.launcher` describes, or None if it is one of Hydra's.

    Raises:
        ValueError: a key is unknown, or has a wrong type or value.
    """
    if isinstance(keys, str):
        raise ValueError(f"hydra.launcher={keys} must have a slash; use hydra/launcher={keys}")
    values = to_plain(keys)
    cls: Any = OWN_LAUNCHERS.get(values.pop("_target_"))
    launcher: Launcher | None = parse_dataclass(cls, values, "hydra.launcher.") if cls else None
    return launcher


def expand(
    arguments: Sequence[str], grids: Sequence[Grid], loader: ConfigLoader | None = None
) -> list[list[str]]:
    """Return the overrides of each run: for each grid, the product of its lists and the arguments'.

    The first key varies slowest, and the arguments' keys come after the grid's.

    Raises:
        ValueError: a grid sets a key of Hydra's own, or a sweep is not a list of values.
    """
    parser = OverridesParser.create(config_loader=loader)
    given = _by_key(parser.parse_overrides(list(arguments)))
    if "sweep" in given and given["sweep"].is_sweep_override():
        raise ValueError(
            f"{given['sweep'].input_line} must name one committed sweep; launch one at a time"
        )

    def is_replaced(key: str) -> bool:
        """Return whether the command line gives the key, or another option for its group."""
        return key in given or key.partition(".")[0] in given

    runs = []
    for grid in grids or [{}]:
        for key in grid:
            if key.startswith(("hydra.", "hydra/")):
                raise ValueError(f"runs must not contain {key}, which all runs share; move it up")
        lines = [f"{key}={as_typed(value)}" for key, value in grid.items() if not is_replaced(key)]
        choices = {**_by_key(parser.parse_overrides(lines)), **given}
        runs += [list(run) for run in itertools.product(*map(_assignments, choices.values()))]
    return runs


def _by_key(overrides: Sequence[Override]) -> dict[str, Override]:
    return {override.key_or_group: override for override in overrides}


def _assignments(override: Override) -> list[str]:
    """Return `key=value` for each value of an override."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise ValueError(f"{override.input_line} must list values; use {key}=a,b,c")
    return [f"{key}={value}" for value in override.sweep_string_iterator()]

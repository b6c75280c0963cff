"""The sweeper: from lists of values to runs, all checked before the first one starts."""

import copy
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ..cli.help import as_typed
from ..config import parse_composed
from ..console import log, logging_to, pluralize
from ..live import showing
from ..machine.stopping import exit_code, reason
from ..schema import parse_dataclass, to_plain
from ..store.progress import Tracker
from ..store.rundir import FINISHED, flat_keys
from .launcher import ANALYSIS, HydraLauncher, Launcher, PlannedRun, refuse_on_failure
from .packed import Packed
from .slurm import Slurm

OWN_LAUNCHERS: dict[str, type[Launcher]] = {  # by `_target_`; Hydra itself never builds them
    "hydra_plugins.randlabels.PackedLauncher": Packed,
    "hydra_plugins.randlabels.SlurmLauncher": Slurm,
}


class GridSweeper(Sweeper):
    """`hydra/sweeper=grid`: the product of the command line's lists with each of `runs`.

    runs: grids of a committed sweep, values by key in Hydra's syntax. A key given on the command
        line replaces theirs, and an option given there also replaces their keys of that group.
    """

    config: DictConfig
    hydra_context: HydraContext

    def __init__(self, runs: Sequence[Mapping[str, Any]]) -> None:
        self.runs = runs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Choose the launcher; ValueError if one of its keys or of Hydra's has a wrong value."""
        self.config = config
        self.hydra_context = hydra_context
        self.executor = own_launcher(config.hydra) or HydraLauncher(
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
        that of the signal that ended the launch. ValueError if a run is refused; none was started.
        """
        configs = [run.config for run in runs]
        to_do = [run for run in runs if run.config.force or run.config.run.state() not in FINISHED]
        refuse_on_failure(to_do, self.config.hydra.runtime.choices["hydra/launcher"])
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
            log.info("%s, %d of them to do", pluralize(len(runs), "run"), len(to_do))
            for folder in sorted({run.config.folder for run in to_do}):
                log.info("Progress: python -m %s.status %s --watch", ANALYSIS, folder)
        limit = configs[0].time_limit
        progress = Tracker(((c.run, flat_keys(c.tree())) for c, _ in to_do))
        shown = to_do and self.executor.local and not configs[0].verbose
        with showing(progress.look) if shown else nullcontext():
            errors = self.executor.start(to_do, partial(reason, limit)) if to_do else {}
        if errors is None:
            return 0
        stopped = reason(limit)
        if limit and any(config.run.state() == "interrupted" for config in configs):
            stopped = stopped or f"time_limit={limit:g}"  # a worker stops before the limit
        code = launch.close(configs, errors, stopped)
        return exit_code() if stopped and code else code

    def compose(self, arguments: list[str]) -> list[PlannedRun]:
        """Return the runs that the arguments describe, each once; ValueError if there are none."""
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


class Composer:
    """Composes what Hydra's `load_sweep_config` returns: its configs and its errors, faster.

    master: composed config of the launch, whose `hydra` keys hold for all runs.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader, self._master = loader, master
        self._groups = set(loader.list_groups(""))
        self._parse = cache(OverridesParser.create(config_loader=loader).parse_override)
        self._compose_once = cache(self._compose)

    def tree(self, overrides: Sequence[str]) -> tuple[DictConfig, str | None]:
        """Return a run's composed tree without the key `hydra`, and the name of its sweep."""
        values, options = [], []
        for override in map(self._parse, overrides):
            if override.type != OverrideType.CHANGE:
                return self._compose(*overrides)  # + and ~ depend on the values before them
            key = override.key_or_group
            is_group = "/" in key or key in self._groups or override.package is not None
            if is_group or key.partition(".")[0] == "hydra":
                options.append(str(override.input_line))
            else:
                values.append(override)
        composed, sweep = self._compose_once(*options)
        tree = copy.deepcopy(composed)
        try:
            for override in values:
                OmegaConf.update(tree, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            return self._compose(*overrides)  # which raises Hydra's error
        return tree, sweep

    def _compose(self, *overrides: str) -> tuple[DictConfig, str | None]:
        composed = self._loader.load_sweep_config(self._master, list(overrides))
        sweep = composed.hydra.runtime.choices.get("sweep")
        with open_dict(composed):  # interpolations in `hydra` need a running job
            del composed["hydra"]
        return composed, sweep


def own_launcher(settings: HydraConf) -> Launcher | None:
    """Return the launcher that Hydra's settings choose, None if it is Hydra's own.

    ValueError if one of these settings is wrong, or would put results elsewhere.
    """
    if settings.job.chdir:
        raise ValueError(
            "hydra.job.chdir=true must be false: all paths are relative to the working directory; "
            "use out=FOLDER to choose where results go"
        )
    keys = settings.launcher
    if isinstance(keys, str):
        raise ValueError(f"hydra.launcher={keys} must have a slash; use hydra/launcher={keys}")
    values = to_plain(keys)
    cls: Any = OWN_LAUNCHERS.get(values.pop("_target_"))
    launcher: Launcher | None = parse_dataclass(cls, values, "hydra.launcher.") if cls else None
    return launcher


def expand(
    arguments: Sequence[str],
    grids: Sequence[Mapping[str, Any]],
    loader: ConfigLoader | None = None,
) -> list[Sequence[str]]:
    """Return the overrides of each run: for each grid, the product of its lists and the arguments'.

    The first key varies slowest, and the arguments' keys come after the grid's. ValueError if a
    grid sets a key of Hydra's own, or a sweep is not a list of values.
    """
    parser = OverridesParser.create(config_loader=loader)
    given = parser.parse_overrides(list(arguments))
    keys = {override.key_or_group for override in given}
    for override in given:
        if override.is_sweep_override() and override.key_or_group == "sweep":
            raise ValueError(
                f"{override.input_line} must name one committed sweep; launch one at a time"
            )
    runs: list[Sequence[str]] = []
    for grid in grids or [{}]:
        for key in grid:
            if key.startswith(("hydra.", "hydra/")):
                raise ValueError(f"runs must not contain {key}, which all runs share; move it up")
        lines = [
            f"{key}={as_typed(value)}"
            for key, value in grid.items()
            if key not in keys and key.partition(".")[0] not in keys
        ]
        choices = [*parser.parse_overrides(lines), *given]
        for override in choices:
            if override.is_sweep_override() and not override.is_discrete_sweep():
                key = override.get_key_element()
                raise ValueError(f"{override.input_line} must list values; use {key}=a,b,c")
        runs += BasicSweeper.split_arguments(choices, max_batch_size=None)[0]
    return runs

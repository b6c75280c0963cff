"""The sweeper: from lists of values to runs, all checked before the first one starts."""

import copy
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.core.plugins import Plugins
from hydra.plugins.plugin import Plugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ..cli import HYDRA_NAME, as_typed
from ..config import Config, parse_composed
from ..schema import parse_dataclass, to_plain
from .launcher import Joblib, Launcher
from .packed import Packed
from .slurm import Slurm

LAUNCHERS: dict[str, type[Launcher]] = {  # by `_target_`; Hydra itself never builds them
    f"{HYDRA_NAME}.JoblibLauncher": Joblib,
    f"{HYDRA_NAME}.PackedLauncher": Packed,
    f"{HYDRA_NAME}.SlurmLauncher": Slurm,
}
OTHER_SWEEPER = (
    "hydra/sweeper must be grid, which checks and plans all runs; leave hydra/sweeper out"
)


class GridSweeper(Sweeper):
    """`hydra/sweeper=grid`: the product of the command line's lists with each of `runs`.

    runs: grids of a committed sweep, values by key in Hydra's syntax. A key given on the command
        line replaces theirs, and an option given there also replaces their keys of that group.
    """

    context: HydraContext
    config: DictConfig

    def __init__(self, runs: Sequence[Mapping[str, Any]]) -> None: ...

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.context, self.config = hydra_context, config

    def sweep(self, arguments: list[str]) -> None:
        """Execute the runs that the arguments describe, and exit with `launch`'s code."""
        _, code = execute_sweep(self.context.config_loader, self.config, arguments)
        self.context.callbacks.on_multirun_end(config=self.config, config_name="config")
        sys.exit(code)


class OtherLauncher(Plugin):
    """Stands for our launchers in Hydra's other sweepers, which check and plan no runs."""

    def __init__(self, **keys: object) -> None:
        raise ValueError(OTHER_SWEEPER)


def register() -> None:
    """Make `_target_: hydra_plugins.randlabels.GridSweeper` the only sweeper that starts runs."""
    classes = Plugins.instance().class_name_to_class
    classes.update({target: OtherLauncher for target in LAUNCHERS})
    classes[f"{HYDRA_NAME}.GridSweeper"] = GridSweeper


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


def execute_sweep(
    loader: ConfigLoader, composed: DictConfig, arguments: Sequence[str]
) -> tuple[list[Config], int]:
    """Execute each run that the arguments describe; return their configs and `launch`'s code.

    ValueError if there are none, or one is refused; nothing was started.

    composed: the config of the launch, in which Hydra's own keys count.
    """
    from .launch import launch  # imports torch

    launcher = build_launcher(composed.hydra)
    if "runs" not in composed.hydra.sweeper:
        raise ValueError(OTHER_SWEEPER)
    composer = Composer(loader, composed)
    runs: dict[Path, tuple[Config, Sequence[str]]] = {}
    for overrides in expand(arguments, composed.hydra.sweeper.runs, loader):
        config = parse_composed(*composer.tree(overrides))
        same, _ = runs.setdefault(config.run.path, (config, overrides))
        if same.dataset.folder != config.dataset.folder:
            raise ValueError(
                f"dataset.root={config.dataset.root} and {same.dataset.root} would share "
                f"the folder {config.run.path}; launch them with different values of name"
            )
    if not runs:
        raise ValueError(f"{' '.join(arguments)} describes no run: one of its lists is empty")
    return [config for config, _ in runs.values()], launch([*runs.values()], launcher)


def build_launcher(settings: HydraConf) -> Launcher:
    """Return the launcher that Hydra's settings choose.

    ValueError if one of these settings is wrong, or would put results elsewhere.
    """
    if settings.job.chdir:
        raise ValueError(
            "hydra.job.chdir=true must be false: all paths are relative to the working directory; "
            "use out=FOLDER to choose where results go"
        )
    if settings.job.env_set:
        raise ValueError(
            "hydra.job.env_set must be empty for a sweep, whose workers it does not reach; set the "
            "variables before the command"
        )
    keys = settings.launcher
    if isinstance(keys, str):
        raise ValueError(f"hydra.launcher={keys} must have a slash; use hydra/launcher={keys}")
    values = to_plain(keys)
    if (target := values.pop("_target_")) not in LAUNCHERS:
        raise ValueError(f"hydra/launcher must be joblib, basic, packed or slurm, not {target}")
    launcher: Launcher = parse_dataclass(LAUNCHERS[target], values, "hydra.launcher.")
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

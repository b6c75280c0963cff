"""Sweeps: a grid of runs, and the launchers that execute them."""

import sys

from hydra.core.plugins import Plugins
from hydra.plugins.plugin import Plugin
from hydra.plugins.sweeper import Sweeper

from .grid import GridSweeper

HYDRA_NAME = "hydra_plugins.randlabels"  # Hydra builds plugins only from modules with this prefix


class OtherSweeper(Plugin):
    """Replaces every other sweeper, which would start runs without checks and without a plan."""

    def __init__(self, **keys: object) -> None:
        raise ValueError(
            "hydra/sweeper must be grid, which checks and plans all runs; leave hydra/sweeper out"
        )


def register() -> None:
    """Make `_target_: hydra_plugins.randlabels.GridSweeper` the only sweeper of Hydra."""
    plugins = Plugins.instance()
    for other in plugins.discover(Sweeper):
        plugins.class_name_to_class[f"{other.__module__}.{other.__name__}"] = OtherSweeper
    sys.modules[HYDRA_NAME] = sys.modules[__name__]  # joblib's workers import it by this name
    GridSweeper.__module__ = HYDRA_NAME
    plugins.register(GridSweeper)

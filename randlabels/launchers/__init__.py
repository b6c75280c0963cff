"""The Hydra sweeper and launchers of our own."""

from __future__ import annotations

import sys

from hydra.core.plugins import Plugins

from .grid import GridSweeper
from .packed import PackedLauncher
from .slurm import SlurmLauncher

HYDRA_NAME = "hydra_plugins.randlabels"
"""Hydra instantiates plugins only from modules of this prefix; worker processes import it too."""


def register() -> None:
    """Make `_target_: hydra_plugins.randlabels.<class>` known to Hydra."""
    sys.modules[HYDRA_NAME] = sys.modules[__name__]
    for plugin in (GridSweeper, PackedLauncher, SlurmLauncher):
        plugin.__module__ = HYDRA_NAME
        Plugins.instance().register(plugin)

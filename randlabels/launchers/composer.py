"""Many configs from few compositions: Hydra composes each choice of options once, and plain values
are set in copies of the result."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ..config import Config, parse_composed


class Composer:
    """What `load_sweep_config` of Hydra's loader gives for lists of overrides, in less time.

    master: the composed config of the launch, whose overrides of Hydra's own keys hold for all.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = loader
        self._master = master
        self._parser = OverridesParser.create(config_loader=loader)
        self._parsed: dict[str, Override] = {}
        self._composed: dict[tuple[str, ...], tuple[DictConfig, str | None]] = {}

    def config(self, overrides: Sequence[str]) -> Config:
        """The typed config of one run; a committed sweep names its folder."""
        tree, sweep = self.tree(overrides)
        return parse_composed(tree, sweep)

    def tree(self, overrides: Sequence[str]) -> tuple[DictConfig, str | None]:
        """The composed config without Hydra's own node, and the option of the group `sweep`.

        Whatever is not the plain value of a key that exists is left to Hydra, errors included.
        """
        lines = [self._parse(line) for line in overrides]
        values = [override for override in lines if self._is_plain(override)]
        others = [override for override in lines if not self._is_plain(override)]
        if any(_changes_keys(override) for override in others):
            return self._compose(overrides)  # what these do may depend on the values before them
        chosen = tuple(str(override.input_line) for override in others)
        if chosen not in self._composed:
            self._composed[chosen] = self._compose(chosen)
        composed, sweep = self._composed[chosen]
        tree = copy.deepcopy(composed)
        try:
            for override in values:
                OmegaConf.update(tree, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            return self._compose(overrides)
        return tree, sweep

    @cached_property
    def _groups(self) -> set[str]:
        return set(self._loader.list_groups(""))

    def _parse(self, line: str) -> Override:
        if line not in self._parsed:
            self._parsed[line] = self._parser.parse_override(line)
        return self._parsed[line]

    def _is_plain(self, override: Override) -> bool:
        """It sets one key to one value; it chooses no option and is none of Hydra's own."""
        key = override.key_or_group
        return (
            not _changes_keys(override)
            and not override.is_sweep_override()
            and override.package is None
            and "/" not in key
            and key not in self._groups
            and key.partition(".")[0] != "hydra"
        )

    def _compose(self, overrides: Sequence[str]) -> tuple[DictConfig, str | None]:
        composed = self._loader.load_sweep_config(self._master, list(overrides))
        sweep = composed.hydra.runtime.choices.get("sweep")
        with open_dict(composed):  # its interpolations wait for a job
            del composed["hydra"]
        return composed, sweep


def _changes_keys(override: Override) -> bool:
    """It begins with `+`, `++` or `~`."""
    return override.is_add() or override.is_force_add() or override.is_delete()

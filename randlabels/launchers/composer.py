"""Configs of a sweep's runs from few compositions: Hydra composes each choice of options once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException


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
        parsed = [self._parse(line) for line in overrides]
        if any(override.type != OverrideType.CHANGE for override in parsed):
            return self._compose(tuple(overrides))  # + and ~ depend on the values before them
        values = [override for override in parsed if self._sets_value(override)]
        options = (str(o.input_line) for o in parsed if not self._sets_value(o))
        composed, sweep = self._compose_once(tuple(options))
        tree = copy.deepcopy(composed)
        try:
            for override in values:
                OmegaConf.update(tree, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            return self._compose(tuple(overrides))  # which raises Hydra's error
        return tree, sweep

    def _sets_value(self, override: Override) -> bool:
        """Return whether the override sets a key of the run, and chooses no option of a group."""
        key = override.key_or_group
        is_key = "/" not in key and key not in self._groups and override.package is None
        return is_key and key.partition(".")[0] != "hydra"

    def _compose(self, overrides: tuple[str, ...]) -> tuple[DictConfig, str | None]:
        composed = self._loader.load_sweep_config(self._master, list(overrides))
        sweep = composed.hydra.runtime.choices.get("sweep")
        with open_dict(composed):  # interpolations in `hydra` need a running job
            del composed["hydra"]
        return composed, sweep

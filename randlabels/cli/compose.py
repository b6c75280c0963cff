"""Configs from command-line overrides, composed by Hydra from the files in conf/."""

from collections.abc import Sequence

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from ..config import Config, parse_composed
from ..registry import PACKAGE, import_files, without_file
from .help import options_help, sweeps_folder

CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
"""The config folder: inside the package once installed, next to it in a checkout."""


def prepare_hydra(overrides: Sequence[str] = ()) -> None:
    """Make the help text, and launchers and options without a file in conf/, known to Hydra."""
    named: object = None
    for line in overrides:
        if line.startswith("imports="):
            override = OverridesParser.create().parse_override(line)
            if override.is_sweep_override():
                raise ValueError(f"{line} must be one list; use imports=[a.py,b.py] with brackets")
            named = override.value()
    import_files(named)
    Plugins.instance()  # which adds launchers of the same names
    for name, processes in (("joblib", -1), ("basic", 1)):
        keys = {"_target_": "hydra_plugins.randlabels.JoblibLauncher", "n_jobs": processes}
        ConfigStore.instance().store(name, keys, "hydra/launcher")
    extra = list(without_file(CONF))
    for group, name, keys in extra:
        ConfigStore.instance().store(name, keys, group)
    if (sweeps := sweeps_folder(CONF)).parent != CONF:  # Hydra finds `sweep` only by that name
        for file in sweeps.rglob("*.yaml"):
            group = "/".join(("sweep", *file.relative_to(sweeps).parent.parts))
            ConfigStore.instance().store(file.stem, OmegaConf.load(file), group, "_global_")
    OmegaConf.register_new_resolver("options_help", lambda: options_help(CONF, extra), replace=True)


def compose(overrides: Sequence[str]) -> Config:
    """Return the config of one run from overrides such as `model=mlp` and `corrupt=0.4`."""
    prepare_hydra(overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse_composed(hydra_compose("config", list(overrides)))

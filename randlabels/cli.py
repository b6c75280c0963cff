"""The command line: its help, and its errors in one sentence."""

import difflib
import itertools
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .config import Config, parse_composed
from .registry import DEFAULTS, PACKAGE, import_files, imported_options

# The config folder: inside the package once installed, next to it in a checkout.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
HYDRA_NAME = "hydra_plugins.randlabels"  # Hydra builds plugins only if `_target_` has this prefix


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
    extra = list(imported_options())
    Plugins.instance()  # which adds launchers of the same names
    store = ConfigStore.instance().store
    for name, processes in (("joblib", -1), ("basic", 1)):
        launcher = {"_target_": f"{HYDRA_NAME}.JoblibLauncher", "n_jobs": processes}
        store(name, launcher, "hydra/launcher")
    for group, name, keys in extra:
        store(name, keys, group)
    if (sweeps := _sweeps_folder()).parent != CONF:  # Hydra finds `sweep` only by that name
        for file in sweeps.rglob("*.yaml"):
            group = "/".join(("sweep", *file.relative_to(sweeps).parent.parts))
            store(file.stem, OmegaConf.load(file), group, "_global_")
    OmegaConf.register_new_resolver("options_help", lambda: options_help(extra), replace=True)


def compose(overrides: Sequence[str]) -> Config:
    """Return the config of one run from overrides such as `model=mlp` and `corrupt=0.4`."""
    prepare_hydra(overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse_composed(hydra_compose("config", list(overrides)))


def as_typed(value: object) -> str:
    """Return a value in the syntax of the command line."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def options_help(extra: Iterable[tuple[str, str, Mapping[str, Any]]] = ()) -> str:
    """Return one paragraph per group: its options in conf/ and `extra` ones, and their keys."""
    groups: dict[str, list[str]] = {"top level": _top_level()}
    folders = {p.name: p for p in CONF.iterdir() if p.is_dir()} | {"sweep": _sweeps_folder()}
    for group in sorted(folders.keys() - {"hydra"}):
        lines = groups.setdefault(group, [])
        for file in sorted(folders[group].rglob("*.yaml")):
            name = file.relative_to(folders[group]).with_suffix("").as_posix()
            if group == "sweep":
                sentence = re.split(r"(?<=\.)\s", " ".join(_comments(file)), maxsplit=1)[0]
                lines += _option(group, name, sentence, {})
            else:
                lines += _option(group, name, _comments(file)[0], _keys(file))
    for group, name, keys in extra:
        groups[group] += _option(group, name, "", keys)
    paragraphs = ("\n".join([f"{group}:", *lines]) for group, lines in groups.items())
    return "\n\n".join(paragraphs).replace("$", "$$")


def _sweeps_folder() -> Path:
    """Return the folder of the committed sweeps, also where conf/sweep could not become a link."""
    link = CONF / "sweep"
    return link if link.is_dir() else CONF.parent / "sweeps"


def _top_level() -> list[str]:
    lines = (CONF / "config.yaml").read_text().splitlines()
    return [f"  {line}" for line in lines if line[:1].isalpha() and "#" in line]


def _option(group: str, name: str, comment: str, keys: Mapping[str, Any]) -> list[str]:
    values = [f"{group}.{key}={as_typed(value)}" for key, value in keys.items() if key != "name"]
    lines = [f"  {name:<19} {comment}".rstrip()]  # the longest is paper/figure1b_mini
    return [*lines, f"      {' '.join(values)}"] if values else lines


def _keys(file: Path) -> dict[str, Any]:
    """Return the keys of an option with their defaults, those of included files first."""
    keys = yaml.safe_load(file.read_text())
    included = [entry for entry in keys.pop("defaults", []) if str(entry)[0] == "/"]
    files = (file.parent.parent / f"{entry[1:].partition('@')[0]}.yaml" for entry in included)
    return {k: v for each in files for k, v in _keys(each).items()} | keys


def _comments(file: Path) -> list[str]:
    """Return the lines of the top comment, without those for Hydra and for the shell."""
    lines = itertools.takewhile(lambda line: line[:1] == "#", file.read_text().splitlines())
    return [line[2:] for line in lines if not line.startswith(("# @package", "# python"))]


def in_one_sentence(error: Exception) -> str:
    """Turn a Hydra, config or file error into one sentence: what is wrong and how to fix it."""
    text = str(error)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    if "group override must be a string" in text:  # Hydra does not say which
        for argument in sys.argv[1:]:
            group, _, value = argument.partition("=")
            if group in DEFAULTS and not all(
                isinstance(yaml.safe_load(name), str) for name in value.split(",")
            ):
                return _unknown_option(group, value, _options(group))
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, ValueError):
        return str(error.__cause__)  # from one of our launchers or sweepers
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return " ".join(text.split())
    if unknown := re.search(r"Could not find '([^']+)'", text):
        parts = unknown[1].split("/")
        depth = 2 if parts[0] == "hydra" else 1
        group, option = "/".join(parts[:depth]), "/".join(parts[depth:])
        known = _options(group)
        if depth == 2:  # Hydra lists the options of its plugins, one a line
            known = re.findall(r"^\t(\S+)$", text, re.M)
        return _unknown_option(group, option, known)
    if unknown := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(unknown[1])
    if "--multirun" in text and (values := re.search(r"(?:argument|parameters) '([^']+)'", text)):
        return f"{values[1]} lists several values; add -m to sweep over them"
    if "`_target_`" in text:  # a name stands where a group's keys belong
        return "an option is chosen with a slash, hydra/launcher=NAME; its keys have dots"
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    return " ".join(f"{text} {error.__cause__ or ''}".split())


def _unreadable(override: str) -> str:
    key, _, value = override.partition("=")
    if value.startswith("~"):  # which the shell expands at the start of a word only
        return (
            f"{key}={value} must not start with ~, which the shell leaves as it is after =; "
            f"use {key}={os.path.expanduser(value)}, or {key}=$HOME{value[1:]}"
        )
    return (
        f"{override!r} cannot be read as KEY=VALUE; use no spaces around = or in lists "
        "a,b,c, and close brackets and quotes"
    )


def _unknown_option(group: str, option: str, known: list[str]) -> str:
    listed = f"; use {', '.join(known)}" if known else ""
    if group == "corruption":
        listed += "; how much is corrupted is another key, such as corrupt=0.4"
    return f"{group}={option} is unknown{listed}"


def _options(group: str) -> list[str]:
    folder = CONF / group
    names = [f.relative_to(folder).with_suffix("").as_posix() for f in folder.rglob("*.yaml")]
    own = (Path(name).stem for name in ConfigStore.instance().repo.get(group, {}))
    return sorted({*names, *own})


def _unknown_key(key: str) -> str:
    if key.startswith("hydra.launcher."):
        name, files = key.rpartition(".")[2], sorted(CONF.glob("hydra/launcher/*.yaml"))
        launchers = [file.stem for file in files if name in _keys(file)]
        launchers = ["joblib"] if name == "n_jobs" else launchers
        if launchers:
            return f"{key} is a key of another launcher; use hydra/launcher={launchers[0]} with it"
    known = [line.split(":")[0].strip() for line in _top_level()]
    known += ["hydra/launcher", "hydra.launcher.n_jobs", "sweep"]
    for file in sorted([*CONF.glob("*/*.yaml"), *CONF.glob("hydra/launcher/*.yaml")]):
        if (group := file.parent.relative_to(CONF).as_posix()) != "sweep":
            known += [group, *(f"{group.replace('/', '.')}.{name}" for name in _keys(file))]
    meant = [name for name in known if name.endswith(f".{key}") or name.startswith(key)]
    meant = list(dict.fromkeys(meant))[:3]
    meant = meant or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"did you mean {' or '.join(meant)}? " if meant and key not in meant else ""
    slurm = " (of slurm: docs/slurm.md)" if key.startswith("hydra.launcher.") else ""
    return f"{key} is an unknown key; {hint}--help lists each option's keys{slurm}"

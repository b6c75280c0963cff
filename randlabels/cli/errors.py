"""Errors of the command line as one sentence: what is wrong, the rule, and the remedy."""

import difflib
import os
import re
import sys
from pathlib import Path

import yaml
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from ..registry import DEFAULTS
from .compose import CONF
from .help import known_keys, launcher_keys


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
        return "a launcher is chosen with a slash, hydra/launcher=NAME; its keys have dots"
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
        listed = "; ".join(f"{name} takes {keys}" for name, keys in launcher_keys(CONF))
        name = key.rpartition(".")[2]
        all_keys = [k for _, keys in launcher_keys(CONF) for k in keys.split(", ")]
        near = [k for k in all_keys if k.startswith(name)]
        near = near or difflib.get_close_matches(name, all_keys, n=1)
        hint = f"did you mean hydra.launcher.{near[0]}? " if near else ""
        return f"{key} is an unknown key; {hint}of hydra/launcher, {listed} (docs/slurm.md)"
    known = known_keys(CONF)
    meant = [name for name in known if name.endswith(f".{key}")][:3]
    meant = meant or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"did you mean {' or '.join(meant)}? " if meant and key not in meant else ""
    return f"{key} is an unknown key; {hint}--help lists each option's keys"

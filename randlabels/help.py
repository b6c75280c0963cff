"""The list of config groups, options and keys for `--help`, read from conf/ itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml


def options_help(conf: Path, extra: Iterable[tuple[str, str, Mapping[str, Any]]] = ()) -> str:
    """One paragraph a group: each option with its comment, and its keys with their defaults.

    `extra` are options without a file: group, name, keys.
    """
    groups: dict[str, list[str]] = {"top level": _top_level(conf)}
    for group in sorted(p.name for p in conf.iterdir() if p.is_dir() and p.name != "hydra"):
        lines = groups.setdefault(group, [])
        for file in sorted((conf / group).rglob("*.yaml")):
            name = file.relative_to(conf / group).with_suffix("").as_posix()
            keys = {} if group == "sweep" else yaml.safe_load(file.read_text())
            lines += _option(group, name, _first_comment(file), keys)
    for group, name, keys in extra:
        groups[group] += _option(group, name, "", keys)
    paragraphs = ("\n".join([f"{group}:", *lines]) for group, lines in groups.items())
    return "\n\n".join(paragraphs).replace("$", "$$")


def known_keys(conf: Path) -> list[str]:
    """All that may stand before a `=` on the command line."""
    keys = [line.split(":")[0].strip() for line in _top_level(conf)]
    for file in conf.glob("[!hs]*/*.yaml"):
        group = file.parent.name
        keys += [group, *(f"{group}.{key}" for key in yaml.safe_load(file.read_text()))]
    return sorted(set(keys) | {"hydra/launcher", "sweep"})


def launcher_keys(conf: Path) -> list[tuple[str, str]]:
    """Each launcher of our own, with its keys; one that extends another takes that one's."""
    found = []
    for file in sorted((conf / "hydra" / "launcher").glob("*.yaml")):
        keys = yaml.safe_load(file.read_text())
        if "defaults" not in keys:
            found.append((file.stem, ", ".join(key for key in keys if key != "_target_")))
    return found


def _top_level(conf: Path) -> list[str]:
    """The commented keys of config.yaml, as they stand there."""
    lines = (conf / "config.yaml").read_text().splitlines()
    return [f"  {line}" for line in lines if line[:1].isalpha() and "#" in line]


def _option(group: str, name: str, comment: str, keys: Mapping[str, Any]) -> list[str]:
    values = [f"{group}.{key}={as_typed(value)}" for key, value in keys.items() if key != "name"]
    lines = [f"  {name:<16} {comment}".rstrip()]
    return [*lines, f"      {' '.join(values)}"] if values else lines


def _first_comment(file: Path) -> str:
    for line in file.read_text().splitlines():
        if line.startswith("# ") and not line.startswith(("# @package", "# python")):
            return line[2:]
    return ""


def as_typed(value: object) -> str:
    """A value as one types it on the command line."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)

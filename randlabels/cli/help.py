"""The list of config groups, options and keys for `--help`, read from the files in conf/."""

import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml


def options_help(conf: Path, extra: Iterable[tuple[str, str, Mapping[str, Any]]] = ()) -> str:
    """Return one paragraph per group: its options in conf/ and `extra` ones, and their keys."""
    groups: dict[str, list[str]] = {"top level": _top_level(conf)}
    folders = {p.name: p for p in conf.iterdir() if p.is_dir()} | {"sweep": sweeps_folder(conf)}
    for group in sorted(folders.keys() - {"hydra"}):
        lines = groups.setdefault(group, [])
        for file in sorted(folders[group].rglob("*.yaml")):
            name = file.relative_to(folders[group]).with_suffix("").as_posix()
            if group == "sweep":
                lines += _option(group, name, _first_sentence(file), {})
            else:
                lines += _option(group, name, _comments(file)[0], _keys(file))
    for group, name, keys in extra:
        groups[group] += _option(group, name, "", keys)
    paragraphs = ("\n".join([f"{group}:", *lines]) for group, lines in groups.items())
    return "\n\n".join(paragraphs).replace("$", "$$")


def sweeps_folder(conf: Path) -> Path:
    """Return the folder of the committed sweeps, also where conf/sweep could not become a link."""
    link = conf / "sweep"
    return link if link.is_dir() else conf.parent / "sweeps"


def known_keys(conf: Path) -> list[str]:
    """Return the keys and groups that the command line accepts."""
    keys = [line.split(":")[0].strip() for line in _top_level(conf)]
    for file in conf.glob("*/*.yaml"):
        if (group := file.parent.name) != "sweep":
            keys += [group, *(f"{group}.{key}" for key in _keys(file))]
    return sorted(set(keys) | {"hydra/launcher", "sweep"})


def launcher_keys(conf: Path) -> list[tuple[str, str]]:
    """Return each of our launchers with its keys."""
    launchers = []
    for file in sorted((conf / "hydra" / "launcher").glob("*.yaml")):
        keys = yaml.safe_load(file.read_text())
        if "defaults" not in keys:
            launchers.append((file.stem, ", ".join(key for key in keys if key != "_target_")))
    return launchers


def _top_level(conf: Path) -> list[str]:
    lines = (conf / "config.yaml").read_text().splitlines()
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


def _first_sentence(file: Path) -> str:
    return re.split(r"(?<=\.)\s", " ".join(_comments(file)), maxsplit=1)[0]


def as_typed(value: object) -> str:
    """Return a value in the syntax of the command line."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)

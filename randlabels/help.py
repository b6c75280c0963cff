"""The list of config groups, options and keys for `--help`, read from conf/ itself."""

from __future__ import annotations

from pathlib import Path

import yaml


def options_help(conf: Path) -> str:
    """One paragraph a group: its options, each with its keys, defaults and first comment."""
    paragraphs = []
    for group in sorted(p for p in conf.iterdir() if p.is_dir() and p.name != "hydra"):
        lines = [f"{group.name}:"]
        for file in sorted(group.rglob("*.yaml")):
            option = file.relative_to(group).with_suffix("").as_posix()
            lines.append(f"  {option:<16} {_first_comment(file)}")
            keys = yaml.safe_load(file.read_text())
            if "name" in keys:
                values = [f"{k}={_value(v)}" for k, v in keys.items() if k != "name"]
                lines += [f"      {group.name}.: {' '.join(values)}"] if values else []
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs).replace("$", "$$")


def _first_comment(file: Path) -> str:
    for line in file.read_text().splitlines():
        if line.startswith("# ") and not line.startswith(("# @package", "# python")):
            return line[2:]
    return ""


def _value(value: object) -> str:
    if value is None:
        return "null"
    return str(value).replace(" ", "").lower() if isinstance(value, bool | list) else str(value)

"""The drawing in docs/layout.md, from the floors that the tests keep and the modules' first lines.

python -m tests.layout     # writes it anew
"""

from __future__ import annotations

import ast
import re

from .test_house import FLOORS, ROOT

PAGE = ROOT / "docs" / "layout.md"
BLOCK = re.compile(r"```text\n.*?```", re.S)
NAMES, TEXTS = 13, 82
"""Widths of the two columns, in characters."""


def page() -> str:
    """The page as it is, with the drawing as it should be."""
    return BLOCK.sub(lambda _: f"```text\n{drawing()}\n```", PAGE.read_text(), count=1)


def drawing() -> str:
    """The floors, the highest first, with a line for each module."""
    floors = [
        "\n".join(f"│ {name:<{NAMES}}{_what_it_is(name):<{TEXTS}}│" for name in sorted(floor))
        for floor in reversed(FLOORS[:-1])
    ]
    rule = "─" * (NAMES + TEXTS + 1)
    return f"┌{rule}┐\n" + f"\n├{rule}┤\n".join(floors) + f"\n└{rule}┘"


def _what_it_is(name: str) -> str:
    """A module's first line, ended at the last mark that leaves it short enough."""
    module = ROOT / "randlabels" / name
    file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    line = (ast.get_docstring(ast.parse(file.read_text())) or "").splitlines()[0]
    ends = [mark.start() for mark in re.finditer(r"[.:;,](?= |$)", line)]
    short = [
        line[:end] for end in ends if end < TEXTS and line[:end].count("(") == line[:end].count(")")
    ]
    return short[-1]


if __name__ == "__main__":
    PAGE.write_text(page())

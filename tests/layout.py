"""The drawing in docs/layout.md, made from `FLOORS` of test_house and the modules' first lines.

python -m tests.layout     # rewrites it
"""

from __future__ import annotations

import ast
import re

from .test_house import FLOORS, ROOT

PAGE = ROOT / "docs" / "layout.md"
BLOCK = re.compile(r"```text\n.*?```", re.S)
NAME_WIDTH, TEXT_WIDTH = 13, 82  # of the two columns, in characters


def page() -> str:
    """Return the text of the page with a new drawing."""
    return BLOCK.sub(lambda _: f"```text\n{drawing()}\n```", PAGE.read_text(), count=1)


def drawing() -> str:
    """Return the floors, the highest first, with a line for each module."""
    floors = [
        "\n".join(
            f"│ {name:<{NAME_WIDTH}}{_summary(name):<{TEXT_WIDTH}}│" for name in sorted(floor)
        )
        for floor in reversed(FLOORS[:-1])
    ]
    rule = "─" * (NAME_WIDTH + TEXT_WIDTH + 1)
    return f"┌{rule}┐\n" + f"\n├{rule}┤\n".join(floors) + f"\n└{rule}┘"


def _summary(name: str) -> str:
    """Return a module's first line, cut at the last punctuation mark at which it fits."""
    module = ROOT / "randlabels" / name
    file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    line = (ast.get_docstring(ast.parse(file.read_text())) or "").splitlines()[0]
    ends = [mark.start() for mark in re.finditer(r"[.:;,](?= |$)", line)]
    short = [
        line[:end]
        for end in ends
        if end < TEXT_WIDTH and line[:end].count("(") == line[:end].count(")")
    ]
    return short[-1]


if __name__ == "__main__":
    PAGE.write_text(page())

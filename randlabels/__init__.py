"""randlabels: what does a model do when its labels are wrong?

A sweep framework for the experiments of Zhang et al. 2017, "Understanding deep learning
requires rethinking generalization". One run lives in `randlabels.run`; many runs become
tables in the package `analysis`. From Python, start with the functions in `__all__`.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    sys.exit("Error: randlabels must run on Linux or macOS; on Windows, use WSL")

TYPE_CHECKING = False  # type checkers take it as true; importing typing would take 20 ms
if TYPE_CHECKING:
    from typing import Any

    from .door import Run, corrupt, epochs, examples, load, runs, sweep

__version__ = "0.1.0"

__all__ = ["Run", "corrupt", "epochs", "examples", "load", "runs", "sweep"]


def __getattr__(name: str) -> Any:
    """Import torch, pandas and Hydra when one of `__all__` is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import door

    return getattr(door, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

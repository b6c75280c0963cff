"""How the process of a command starts and ends. Imports no torch."""

from __future__ import annotations

import atexit
import gc
import sys


def spare_the_garbage_collector() -> None:
    """Let a command start 0.3 s earlier and end 0.8 s earlier.

    Importing torch makes a million objects and no garbage, so that looking for it is a waste; and
    a process that ends need not look once more.
    """
    gc.set_threshold(50_000)
    atexit.register(_freeze)


def _freeze() -> None:
    if "triton" not in sys.modules:  # its bindings would report leaks
        gc.freeze()

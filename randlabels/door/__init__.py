"""The package from Python: corrupted labels, sweeps, their tables, and finished runs."""

from .labels import corrupt
from .results import Run, epochs, load, runs, sweep

__all__ = ["Run", "corrupt", "epochs", "load", "runs", "sweep"]

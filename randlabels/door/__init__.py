"""The public Python functions: corrupted labels, sweeps, their tables, and finished runs."""

from .labels import corrupt
from .results import Run, epochs, examples, load, runs, sweep

__all__ = ["Run", "corrupt", "epochs", "examples", "load", "runs", "sweep"]

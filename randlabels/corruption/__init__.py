"""Corruptions: one file each, pure functions from true labels to corrupted ones.

To add one, add one file with one dataclass: its fields are the config keys, its class
attribute `name` is what users type after `corruption=`, and `relabel` does the work.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np


class Corruption(Protocol):
    """What the program asks of an option of the group `corruption`."""

    name: ClassVar[str]
    seed: int

    def relabel(self, labels: np.ndarray, prob: float, classes: int) -> np.ndarray:
        """New labels (N,) int64 in [0, classes) for true `labels` (N,) int64, at `prob` in 0..1."""
        ...

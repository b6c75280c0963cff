"""Files of own options, written by tests, and the configs that use them."""

from __future__ import annotations

from collections.abc import Callable

from randlabels.config import Config, parse

HEAD = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
import torch
from torch import nn
from randlabels.corruption import Corruption
from randlabels.corruption.base import Mixture
from randlabels.dataset import Data, Dataset, Split
from randlabels.model import Model
from randlabels.model.dropout import Dropout
"""
DIGITS = {"dataset": {"name": "digits"}}

Write = Callable[[str], None]


def own_network(write: Write, layers: str, returned: str = "") -> Config:
    """Return a run on digits, (1, 8, 8) with 10 classes, of a model of these layers."""
    write(
        f"""
        @dataclass
        class Own(Model):
            name: ClassVar[str] = "own"
            lr: float | None = 0.1

            def build(self, image, classes, rng):
                return {returned}nn.Sequential({layers})
        """,
    )
    return parse({**DIGITS, "model": {"name": "own"}})


def own_corruption(write: Write, relabel: str) -> Config:
    """Return a run on digits of a corruption that relabels in this way."""
    write(
        f"""
        @dataclass
        class Own(Corruption):
            name: ClassVar[str] = "own"

            def relabel(self, source, corrupt):
                {relabel}

            def transition(self, source, corrupt):
                return np.eye(source.classes)
        """,
    )
    return parse({**DIGITS, "model": {"name": "linear"}, "corruption": {"name": "own"}})

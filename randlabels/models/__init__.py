"""Models: one file each, from config keys to an initialised `nn.Module`.

To add one, add one file with one dataclass: its fields are the config keys, its class
attribute `name` is what users type after `model=`, `lr` is its default learning rate, and
`build` returns the module. Options whose names have no file in `conf/model/` take their
defaults from the dataclass.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import nn


class Model(Protocol):
    """What the program asks of an option of the group `model`."""

    name: ClassVar[str]
    lr: float | None

    def build(self, image: tuple[int, int, int], classes: int, rng: torch.Generator) -> nn.Module:
        """A float32 module on the CPU with weights drawn from `rng`.

        It maps images (B, C, H, W) float32, with (C, H, W) = `image`, to logits (B, classes).
        """
        ...

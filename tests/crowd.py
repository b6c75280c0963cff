"""A model for tests of runs that share a process: its networks know of each other."""

from __future__ import annotations

import os
import signal
import threading
import weakref
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

STEP = 3
"""The training step in which something happens."""


class Network(nn.Module):
    """A linear classifier in a process that does not bear two of its kind.

    event: what happens in step STEP, once there are two: `memory`: there is not enough for both,
    then and in each later step; `kill`: the process dies; `never`: this one gets no memory, alone
    or not.
    """

    alive: ClassVar[weakref.WeakSet[Network]] = weakref.WeakSet()
    second = threading.Event()
    full = threading.Event()

    def __init__(self, event: str, layers: nn.Module) -> None:
        super().__init__()
        self.event = event
        self.layers = layers
        self.steps = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.steps += 1
            self.happen()
        return self.layers(images)

    def happen(self) -> None:
        self.alive.add(self)
        if len(self.alive) > 1:
            self.second.set()
        if self.steps == STEP and not self.full.is_set():
            if self.event != "never":
                self.second.wait(20)
            if self.event == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            self.full.set()
        if self.full.is_set() and (self.event == "never" or len(self.alive) > 1):
            raise torch.OutOfMemoryError("too many networks")


@dataclass
class Crowd:
    """The option of which each `build` is one network more."""

    name: ClassVar[str] = "crowd"

    event: str = "memory"
    lr: float | None = 0.1

    def build(self, image: tuple[int, int, int], classes: int, rng: torch.Generator) -> nn.Module:
        channels, height, width = image
        linear = nn.Linear(channels * height * width, classes)
        return Network(self.event, nn.Sequential(nn.Flatten(), linear))

"""Learning-rate schedules: pure functions from the epoch to a factor on the base rate."""

import math
from abc import abstractmethod
from dataclasses import dataclass, field

from .schema import POSITIVE, Option


class Schedule(Option):
    """Base class of the group `schedule`."""

    @abstractmethod
    def factor(self, epoch: int, epochs: int) -> float:
        """Return the factor on the base learning rate in `epoch` (0-based) of `epochs`, >= 0."""


@dataclass
class Step(Schedule):
    """factor = gamma ** (number of milestones that are <= epoch).

    Defaults: x0.1 from epoch 150 and x0.1 again from 225, as in the original code
    (train.py, adjust_learning_rate) for its 300 epochs. That code divides by 10 at every multiple
    of 150 and of 225; `milestones` = [150, 225, 300, 450, 450] continues it.
    """

    name = "step"
    rules = {
        "milestones": (lambda epochs: all(e >= 0 for e in epochs), "epochs from 0 on"),
        "gamma": POSITIVE,
    }

    milestones: list[int] = field(default_factory=lambda: [150, 225])
    gamma: float = 0.1

    def factor(self, epoch: int, epochs: int) -> float:
        return self.gamma ** sum(m <= epoch for m in self.milestones)


@dataclass
class Exponential(Schedule):
    """factor = gamma ** epoch. Default 0.95: Zhang et al. 2017, appendix A."""

    name = "exponential"
    rules = {"gamma": POSITIVE}

    gamma: float = 0.95

    def factor(self, epoch: int, epochs: int) -> float:
        return self.gamma**epoch


@dataclass
class Cosine(Schedule):
    """factor = (1 + cos(pi·epoch/epochs)) / 2, from 1 towards 0 (Loshchilov & Hutter 2017)."""

    name = "cosine"

    def factor(self, epoch: int, epochs: int) -> float:
        return (1 + math.cos(math.pi * epoch / epochs)) / 2


@dataclass
class Constant(Schedule):
    """factor = 1."""

    name = "constant"

    def factor(self, epoch: int, epochs: int) -> float:
        return 1.0

"""Models: one file each, from config keys to an initialised `nn.Module`.

docs/extend.md says how to add one.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..schema import Option


class Model(Option):
    """Base class of the group `model`.

    lr: default learning rate; an option without this key needs `optimizer.lr`.
    """

    lr: float | None = None

    @property
    def bf16_on_cpu(self) -> bool:
        """Whether `precision=auto` trains the model in bf16 on a CPU with AMX or AVX512-BF16.

        A model sets it to True where `python -m tests.benchmarks.precision` shows a clear gain:
        narrow layers do not win back the time of converting between float32 and bf16.
        """
        return False

    @abstractmethod
    def build(self, image: tuple[int, int, int], classes: int, rng: Generator) -> nn.Module:
        """Return a float32 module on the CPU with weights drawn from `rng`.

        It maps images (B, C, H, W) float32, with (C, H, W) = `image`, to logits (B, classes).
        """


@dataclass(frozen=True)
class SolveOptions:
    """How an exact fit computes.

    dtype: float32 or float64, the precision of the largest matrix.
    tick: is called with the share of the work done since its last call, and may raise to stop.
    memory: bytes that the fit may use, which limit the number of label sets solved at once.
    """

    dtype: torch.dtype = torch.float64
    tick: Callable[[float], None] = lambda share: None
    memory: int = 2**63


@dataclass(frozen=True)
class ExactFit:
    """The exact fit of one label set.

    train: (n, C) float64, the outputs on the training images; test: (m, C), on the test images.
    parameters: the number of weights. report: further results by name, for done.json.
    """

    train: Tensor
    test: Tensor
    parameters: int
    report: dict[str, Any]


class ExactModel(Model):
    """Base class of models whose weights solve equations; they have `lr` null.

    Labels are encoded as targets, and outputs are decoded into classes. Several label sets of the
    same images are solved together.
    """

    def build(self, image: tuple[int, int, int], classes: int, rng: Generator) -> nn.Module:
        """Raise TypeError: `solve` takes its place."""
        raise TypeError(f"model={self.name} is solved, not trained")

    @property
    @abstractmethod
    def draws(self) -> bool:
        """Whether the fit depends on the run's seed."""

    @abstractmethod
    def check(self, images: Tensor, test: int, classes: int, options: SolveOptions) -> int:
        """Return the bytes that a fit of one label set needs.

        images: (n, C, H, W) uint8, for training; test: the number of test images.

        Raises:
            ValueError: the images cannot be fitted; one sentence.
        """

    def encode(self, labels: Tensor, classes: int) -> Tensor:
        """Return targets (n, C) float64 for labels (n,) int64 in [0, K); by default one-hot."""
        return F.one_hot(labels, classes).double()

    def decode(self, outputs: Tensor) -> Tensor:
        """Return classes (n,) int64 for outputs (n, C) float64; by default the largest's."""
        return outputs.argmax(1)

    @abstractmethod
    def solve(
        self, train: Tensor, test: Tensor, sets: list[Tensor], rng: Generator, options: SolveOptions
    ) -> list[ExactFit]:
        """Return one fit for each of `sets` of targets, (n, C) float64 each.

        train, test: preprocessed images (n, C, H, W) float32.

        Raises:
            ArithmeticError: the equations cannot be solved in this precision; one sentence.
        """

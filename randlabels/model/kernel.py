"""Kernel regression: the minimum-norm interpolation of the labels, solved exactly."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..kernels.cholesky import BLOCK_ROWS, Breakdown, Triangle
from ..kernels.features import ConvFeatures, gabor
from ..kernels.system import ConvSystem, KernelSystem, Solution, System, solutions
from ..schema import AT_LEAST_1, POSITIVE, one_of
from . import ExactFit, ExactModel, SolveOptions

log = logging.getLogger("randlabels")

MAX_SETS_AT_ONCE = 64  # label sets that are solved as one block, if memory suffices
SMALLEST_PIVOT = 1e-14  # of a K with a diagonal of about 1, in float64
ROUNDING = 1e-12  # of squared distances in float64, as a share of the squared norms
# Of float64 arrays (n, K) of a label set while it is solved: target, coefficients, residual, their
# successors and copies. Together 0.045 GiB at n = 60,000 with ten classes.
BYTES_PER_TARGET = 10 * 8
BYTES_OF_TILES = 2**29  # a bound on what is computed of K and of the features at once


@dataclass
class Kernel(ExactModel):
    """argmax of K(x, X)·A with (K + λI)·A = one-hot labels.

    Without ridge, that is the interpolation of the labels with the smallest norm
    ‖w‖ = √tr(Aᵀ·K·A); Zhang et al. 2017, section 5. The defaults are those of the original
    README for MNIST: exp(-0.02·‖x - x′‖²) on pixels in 0..1, test error 1.22 %.

    kernel: gaussian exp(-γ‖x-x′‖²), laplacian exp(-γ‖x-x′‖) as Belkin, Ma and Mandal 2018,
        polynomial ⟨x/‖x‖, x′/‖x′‖⟩^degree (0 for a black image; Recht's notebook mnist_1_pt_2 has
        degree 4, with a test error of 1.18 % on MNIST), or linear ⟨x, x′⟩.
    features: what x is; see `randlabels.kernels.features` for gabor (`orientations`,
        `wavelengths`, `pool`) and random_conv (`filters`, `patch`, `stride`, `bias`), which takes
        the linear kernel.
    ridge: λ, added to the diagonal of K.
    """

    name = "kernel"
    rules = {
        "kernel": one_of("gaussian", "laplacian", "polynomial", "linear"),
        "features": one_of("raw", "gabor", "random_conv"),
        **dict.fromkeys(
            ("degree", "orientations", "pool", "filters", "patch", "stride"), AT_LEAST_1
        ),
        "gamma": POSITIVE,
        "ridge": (lambda x: 0 <= x < math.inf, "0 or a positive number"),
        "wavelengths": (
            lambda ws: ws and all(2 <= w < math.inf for w in ws),
            "pixels, each at least 2, such as [4,8]",
        ),
    }

    kernel: str = "gaussian"
    gamma: float = 0.02
    degree: int = 4
    features: str = "raw"
    orientations: int = 8
    wavelengths: list[float] = field(default_factory=lambda: [4.0, 8.0])
    pool: int = 4
    filters: int = 32000
    patch: int = 6
    stride: int = 1
    bias: float = 1.0
    ridge: float = 0.0
    lr: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features == "random_conv" and self.kernel != "linear":
            raise ValueError(
                f"model.features=random_conv takes the linear kernel, not {self.kernel}; "
                "use model.kernel=linear"
            )

    @property
    def draws(self) -> bool:
        return self.features == "random_conv"

    def check(self, images: Tensor, test: int, classes: int, options: SolveOptions) -> int:
        n, pixels = len(images), images[0].numel()
        if self.features == "random_conv":
            height, width = images.shape[2:]
            if min(height, width) < self.patch + self.stride:
                raise ValueError(
                    f"model.patch={self.patch} leaves no two patches on images of "
                    f"{height}x{width} pixels; use a smaller one"
                )
            features, tiles = 4 * self.filters, BYTES_OF_TILES  # int8
        else:
            features = 4 * self._rows(images[:1].float()).shape[1]  # float32
            tiles = BYTES_OF_TILES + 6 * min(n, BLOCK_ROWS) * features  # three float64 copies
        matrix = Triangle.size(n) * options.dtype.itemsize
        targets = BYTES_PER_TARGET * n * classes
        return matrix + targets + (n + test) * (4 * pixels + features) + tiles

    def solve(
        self, train: Tensor, test: Tensor, sets: list[Tensor], rng: Generator, options: SolveOptions
    ) -> list[ExactFit]:
        equations = self._system(train, test, rng, lambda: options.tick(0.0))
        left = options.memory - self.check(train, len(test), sets[0].shape[1], options)
        more = left // (BYTES_PER_TARGET * sets[0].numel())  # than the one set that is checked
        at_once = min(max(1 + more, 1), MAX_SETS_AT_ONCE)
        solved: list[Solution] = []
        started = time.perf_counter()
        try:
            factor = Triangle(equations.n, options.dtype, str(train.device))
            factor.fill(equations.tile, equations.ridge, equations.beat)
            factor.factorise(options.tick)
            if (pivot := factor.smallest_pivot()) < SMALLEST_PIVOT:
                raise Breakdown(f"a pivot of {pivot:.0e} is a rounding error")
            seconds = time.perf_counter() - started
            log.info("K of %d images factorised in %.1f s.", equations.n, seconds)
            for start in range(0, len(sets), at_once):
                solved += solutions(equations, factor, sets[start : start + at_once])
        except Breakdown as error:
            precise = "" if options.dtype is torch.float64 else " or precision=fp64"
            raise ArithmeticError(
                f"K is singular in {str(options.dtype).removeprefix('torch.')}: {error}; "
                f"use a larger model.ridge{precise}"
            ) from error
        seconds = time.perf_counter() - started - seconds
        log.info("%d label sets solved in %.1f s.", len(sets), seconds)
        return [
            ExactFit(each.train, each.test, target.numel(), each.report)
            for target, each in zip(sets, solved, strict=True)
        ]

    def _system(
        self, train: Tensor, test: Tensor, rng: Generator, beat: Callable[[], None]
    ) -> System:
        if self.features == "random_conv":
            size = self.filters, self.patch, self.stride, self.bias
            return ConvSystem(ConvFeatures(train, test, size, rng, beat), self.ridge, beat)
        return KernelSystem(self._rows(train), self._rows(test), self.between, self.ridge, beat)

    def _rows(self, images: Tensor) -> Tensor:
        if self.features == "gabor":
            images = gabor(images, self.orientations, self.wavelengths, self.pool)
        return images.flatten(1)

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """Return K (m, k) float64 between rows of features (m, d) and (k, d) float64."""
        if self.kernel == "linear":
            return a @ b.T
        if self.kernel == "polynomial":
            return (F.normalize(a) @ F.normalize(b).T).pow_(self.degree)
        norms = a.square().sum(1)[:, None] + b.square().sum(1)
        distances = norms - 2 * a @ b.T
        distances[distances < ROUNDING * norms] = 0  # of equal images; the root would magnify it
        if self.kernel == "laplacian":
            distances.sqrt_()
        return distances.mul_(-self.gamma).exp_()

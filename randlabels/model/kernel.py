"""Kernel regression: the minimum-norm interpolation of the labels, solved exactly."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from filelock import FileLock

from ..kernels import features, functions, random_conv, system
from ..kernels.cholesky import TILE, Breakdown, Triangle
from ..kernels.rows import Rows
from . import ExactModel, Fit, SolveOptions

log = logging.getLogger("randlabels")

KERNELS = ("gaussian", "laplacian", "polynomial", "linear")
FEATURES = ("raw", "gabor", "random_conv")

AT_ONCE = 64
"""Sets of labels solved as one block, if their arrays find room in memory: see ARRAYS."""

TILES = 5
"""Float64 tiles that a thread has at once: inner products, K, products, and what they are of."""

ARRAYS = 8
"""(n, K) float64 arrays of a set that is being solved: target, coefficients, residual and their
successors, and the blocks that these are put into. 0.04 GiB at n = 60,000 with ten classes."""


@dataclass
class Kernel(ExactModel):
    """argmax of K(x, X)·A with (K + λI)·A = one-hot labels; without ridge, the interpolation of
    the labels that has the smallest norm ‖w‖ = √tr(Aᵀ·K·A).

    Zhang et al. 2017, section 5. The defaults are those of the original code's MNIST notebook
    (mnist_1_pt_2): exp(-0.02·‖x - x′‖²) on pixels in 0..1, test error 1.22 %.

    kernel: gaussian exp(-γ‖x-x′‖²), laplacian exp(-γ‖x-x′‖), polynomial ⟨x/‖x‖, x′/‖x′‖⟩^degree,
        or linear ⟨x, x′⟩.
    features: what x is; see `randlabels.kernels.features` for gabor (`orientations`,
        `wavelengths`, `pool`) and `randlabels.kernels.random_conv` for random_conv (`filters`,
        `patch`, `stride`, `bias`), which takes the linear kernel.
    ridge: λ, added to the diagonal of K.
    cache: share the factorisation with other processes through a file of n²/2 numbers (null: in
        a sweep whose runs are processes of their own, but not for a single run).
    """

    name: ClassVar[str] = "kernel"

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
    cache: bool | None = None
    lr: float | None = None

    def __post_init__(self) -> None:
        for key, known in (("kernel", KERNELS), ("features", FEATURES)):
            if (value := getattr(self, key)) not in known:
                raise ValueError(f"model.{key}={value} is unknown; use {', '.join(known)}")
        for key in ("degree", "orientations", "pool", "filters", "patch", "stride"):
            if (value := getattr(self, key)) < 1:
                raise ValueError(f"model.{key}={value} must be at least 1")
        if not 0 < self.gamma < float("inf"):
            raise ValueError(f"model.gamma={self.gamma} must be a positive number")
        if not 0 <= self.ridge < float("inf"):
            raise ValueError(f"model.ridge={self.ridge} must be 0 or a positive number")
        if not self.wavelengths or not all(2 <= w < float("inf") for w in self.wavelengths):
            raise ValueError(
                f"model.wavelengths={self.wavelengths} must list pixels, "
                "each at least 2, such as [4,8]"
            )
        if self.features == "random_conv" and self.kernel != "linear":
            raise ValueError(
                f"model.features=random_conv takes the linear kernel, not {self.kernel}; "
                "use model.kernel=linear"
            )

    @property
    def draws(self) -> bool:
        return self.features == "random_conv"

    def check(self, images: torch.Tensor, test: int, classes: int, options: SolveOptions) -> int:
        if self.features == "random_conv":
            height, width = images.shape[2:]
            if min(height, width) < self.patch + self.stride:
                raise ValueError(
                    f"model.patch={self.patch} leaves no two patches on images of "
                    f"{height}x{width} pixels; use a smaller one"
                )
        return self._shared_memory(images, test, options) + _memory(len(images), classes)

    def _shared_memory(self, images: torch.Tensor, test: int, options: SolveOptions) -> int:
        """Bytes that a fit needs however many sets of labels there are."""
        side = min(TILE, len(images))
        tile = TILES * side**2 * 8
        if self.features == "random_conv":
            row = 4 * self.filters + 4 * images[0].numel()  # 8-bit codes, and float32 pixels
        else:
            width = self._rows(images[:1].float()).values.shape[1]
            row = 5 * width  # float32, and 8-bit codes
            tile += 2 * side * width * 8  # rows in float64
        rows = (len(images) + test) * row
        matrix = Triangle.size(len(images)) * options.dtype.itemsize
        return matrix + rows + options.threads * tile + 2**29

    def encode(self, labels: torch.Tensor, classes: int) -> torch.Tensor:
        return F.one_hot(labels, classes).double()

    def decode(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.argmax(1)

    def solve(
        self,
        train: torch.Tensor,
        test: torch.Tensor,
        targets: list[torch.Tensor],
        rng: torch.Generator,
        options: SolveOptions,
    ) -> list[Fit]:
        shared = self._shared_memory(train, len(test), options)
        at_once = (options.memory - shared) // _memory(*targets[0].shape)
        equations = self._system(train, test, rng, lambda: options.tick(0.0))
        try:
            solutions = _solved(
                equations, targets, min(max(at_once, 1), AT_ONCE), options, str(train.device)
            )
        except Breakdown as error:
            precise = "" if options.dtype is torch.float64 else " or precision=fp64"
            raise ArithmeticError(
                f"K is singular in {str(options.dtype).removeprefix('torch.')}: {error}; "
                f"use a larger model.ridge{precise}"
            ) from error
        return [
            Fit(
                train=solution.train,
                test=solution.test,
                parameters=target.numel(),
                report={
                    "relative_residual": solution.relative_residual,
                    "smallest_pivot": solution.smallest_pivot,
                    "interpolation_error": float((solution.train - target).abs().max()),
                    "norm": solution.norm,
                },
            )
            for solution, target in zip(solutions, targets, strict=True)
        ]

    def _system(
        self,
        train: torch.Tensor,
        test: torch.Tensor,
        rng: torch.Generator,
        beat: Callable[[], None],
    ) -> system.System:
        if self.features == "random_conv":
            size = self.filters, self.patch, self.stride, self.bias
            return random_conv.ConvSystem(
                random_conv.shared(train, test, *size, rng, beat), self.ridge, beat
            )
        kernel = {
            "gaussian": lambda: functions.gaussian(self.gamma),
            "laplacian": lambda: functions.laplacian(self.gamma),
            "polynomial": lambda: functions.polynomial(self.degree),
            "linear": functions.linear,
        }[self.kernel]()
        rows = self._rows(train), self._rows(test)
        return system.KernelSystem(*rows, kernel, self.ridge, beat)

    def _rows(self, images: torch.Tensor) -> Rows:
        if self.features == "gabor":
            images = features.gabor(images, self.orientations, self.wavelengths, self.pool)
        return Rows(images.flatten(1))


def _solved(
    equations: system.System,
    targets: list[torch.Tensor],
    at_once: int,
    options: SolveOptions,
    device: str,
) -> list[system.Solution]:
    """With L of K + λI from the cache, if it is there; one process at a time works on a cache.

    The residual tells whether a factorisation was good: where one from the cache was not, it is
    computed anew.
    """
    if options.cache is None:
        return _solutions(equations, _factorised(equations, options, device), targets, at_once)
    options.cache.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(options.cache.with_suffix(".lock"))
    with lock:
        factor = found = _opened(options.cache, equations.n, device)
        if factor is None:
            factor = _factorised(equations, options, device)
            _save(factor, options.cache)
        else:
            log.info("Factorisation found in %s.", options.cache)
    try:
        return _solutions(equations, factor, targets, at_once)
    except Breakdown as error:
        if found is None:
            raise
        log.warning("%s is damaged and is replaced: %s", options.cache, error)
    with lock:
        options.cache.unlink(missing_ok=True)
    return _solved(equations, targets, at_once, options, device)


def _solutions(
    equations: system.System, factor: Triangle, targets: list[torch.Tensor], at_once: int
) -> list[system.Solution]:
    """Equal targets, such as those of all corruption seeds at p = 0, are solved once."""
    keys = [hashlib.sha256(target.cpu().numpy().tobytes()).digest() for target in targets]
    distinct = dict(zip(keys, targets, strict=True))
    different = list(distinct.values())
    started = time.perf_counter()
    solutions = [
        solution
        for start in range(0, len(different), at_once)
        for solution in system.solve(equations, factor, different[start : start + at_once])
    ]
    took = time.perf_counter() - started
    log.info("%d different sets of labels solved for in %.1f s.", len(different), took)
    solved = dict(zip(distinct, solutions, strict=True))
    return [solved[key] for key in keys]


def _memory(n: int, classes: int) -> int:
    """Bytes of a set of labels that is being solved."""
    return ARRAYS * n * classes * 8


def _factorised(equations: system.System, options: SolveOptions, device: str) -> Triangle:
    started = time.perf_counter()
    factor = Triangle.empty(equations.n, options.dtype, device)
    factor.fill(equations.tile, equations.ridge, lambda: options.tick(0.0))
    built = time.perf_counter()
    operations = factor.operations()
    factor.factorise(lambda done: options.tick(done / operations))
    took = time.perf_counter() - built
    log.info(
        "K of %d images built in %.1f s and factorised in %.1f s, n³/3 at %.0f GFLOP/s.",
        equations.n,
        built - started,
        took,
        equations.n**3 / 3 / took / 1e9,
    )
    return factor


def _opened(file: Path, n: int, device: str) -> Triangle | None:
    """What the cache holds, if it is whole."""
    try:
        factor = Triangle.open(file, n)
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        log.warning("%s is damaged and is replaced: %s", file, error)
        return None
    return factor if device == "cpu" else Triangle(factor.values.to(device), n)


def _save(factor: Triangle, file: Path) -> None:
    """Write the cache as a whole; a file that cannot be written costs the cache, not the run."""
    temporary = file.with_suffix(".tmp")  # ours alone, since we hold the lock
    try:
        factor.save(temporary)
        os.replace(temporary, file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        log.warning("The factorisation could not be cached: %s", error)

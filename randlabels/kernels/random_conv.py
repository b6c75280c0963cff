"""The linear kernel of a random one-layer convolutional network, whose features have 8 bits."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from .cholesky import BLOCK

log = logging.getLogger("randlabels")

LEVELS = 20
"""Codes in a standard deviation: they reach 6.35 deviations to either side, where less than one
feature in a thousand lies beyond, and rounding adds 2·10⁻⁴ to K's diagonal of about 1."""

INTERCEPT = 0.01
"""The constant feature's part of K: n times it, its eigenvalue, is far above any ridge of use, and
far below what would cost a factorisation in float32 its digits."""

WIDTH = 2**17
"""Columns whose products with codes up to 127 add up in int32."""

OUTPUTS = 20
"""Outputs whose weights, in digits, are in memory at once: 0.3 GiB for 128,000 columns."""

FILTERS = 1000
"""Filters at a time, and about twice as many patches: their activations stay in the cache."""

DIGITS = 8
"""Whole numbers up to 127, each in 1/128 of the one before, that make a float64: 53 bits."""

REPORT = 10_000
"""Images between two lines of the log."""


class ConvFeatures:
    """Φ with 4 columns a filter: patches, whitening, ReLU, means over quadrants, in 8 bits.

    The "random convolutional net with 32,000 random filters" of Zhang et al. 2017, Table 3, which
    says no more of it, is taken to be the network of Coates, Lee and Ng 2011 with random instead
    of learnt filters. From images (N, C, H, W) float32 with pixels in 0..1:

    - each patch of `patch` x `patch` pixels, every `stride` pixels, minus its mean, over
      √(variance + 10/255²), then ZCA-whitened with the training patches' covariance + 0.1;
    - a filter is a random whitened training patch over its norm; activation max(0, ⟨f, p⟩ - bias);
    - the mean over each quadrant of the image; for an odd number of positions the middle ones
      belong to both sides;
    - minus its mean over STATISTICS training images, over its standard deviation there, in
      LEVELS-ths, rounded to a whole number from -127 to 127.

    Patches, filters and activations are rounded to bfloat16, which their products take at twice
    the speed of float32 on processors that multiply it; others multiply the same numbers in
    float32. Where activations differ by rounding, a code may differ by one. Given the codes, all
    that follows is exact: Φ is defined by them, and a map that is random loses nothing by it.

    train: (n, 4·F) int8, test: (m, 4·F) int8. `beat` is called every few images, and may raise to
    end the work.
    """

    SAMPLE = 100_000
    """Patches from which mean and covariance are estimated."""

    STATISTICS = 1000
    """Images from which the features' means and deviations are estimated."""

    def __init__(
        self,
        train: torch.Tensor,
        test: torch.Tensor,
        filters: int,
        patch: int,
        stride: int,
        bias: float,
        rng: torch.Generator,
        beat: Callable[[], None],
    ) -> None:
        self.patch, self.stride, self.beat = patch, stride, beat
        mean, whitening = self._whitening(self._sample(train, self.SAMPLE, rng))
        whitened = (self._sample(train, filters, rng) - mean) @ whitening
        unit = whitened / whitened.norm(dim=1, keepdim=True).clamp(min=1e-12)
        # whitened patches (p - m)·W end in a 1, which takes the bias
        self.filters = F.pad(unit, (0, 1), value=-bias).bfloat16()
        self.whitening, self.offset = whitening.float(), (mean @ whitening).float()

        few = train[torch.randperm(len(train), generator=rng)[: self.STATISTICS].to(train.device)]
        known = torch.cat([self.activations(part).float() for part in self._few(few)])
        deviation, self.mean = torch.std_mean(known, 0, correction=0)
        self.scale = LEVELS / deviation.clamp(min=1e-3)  # a filter that never fired has none
        self.train, self.test = self._codes(train), self._codes(test)

    def activations(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 4·F) bfloat16 or float32 means over quadrants of a few images."""
        height, width = self._positions(images)
        patches = self._patches(images)
        size = (height + 1) // 2, (width + 1) // 2
        parts = []
        for filters in self.filters.split(FILTERS):
            active = _positive(_products(patches, filters)).view(len(images), height, width, -1)
            means = F.avg_pool2d(active.permute(0, 3, 1, 2), size, (height // 2, width // 2))
            parts.append(means.flatten(1))
        return torch.cat(parts, 1)

    def _codes(self, images: torch.Tensor) -> torch.Tensor:
        codes = torch.empty(
            len(images), len(self.mean), dtype=torch.int8, device=self.filters.device
        )
        started, done = time.perf_counter(), 0
        for part in self._few(images):
            whole = self.activations(part).float().sub_(self.mean).mul_(self.scale).round_()
            codes[done : done + len(part)] = whole.clamp_(-127, 127)
            done += len(part)
            self.beat()
            if done // REPORT > (done - len(part)) // REPORT:
                took = time.perf_counter() - started
                log.info("Features of %d of %d images in %.0f s.", done, len(images), took)
        return codes

    def _few(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """A few images at a time, with about 2·FILTERS patches."""
        height, width = self._positions(images)
        return images.split(max(1, 2 * FILTERS // (height * width)))

    def _positions(self, images: torch.Tensor) -> tuple[int, int]:
        """Patches in a column and in a row of the image."""
        height, width = images.shape[2:]
        return (height - self.patch) // self.stride + 1, (width - self.patch) // self.stride + 1

    def _patches(self, images: torch.Tensor) -> torch.Tensor:
        """Whitened patches (N·h·w, d + 1) bfloat16 with a 1 at the end."""
        patches = F.unfold(images, self.patch, stride=self.stride).transpose(1, 2).flatten(0, 1)
        whitened = _normalised(patches) @ self.whitening - self.offset
        return F.pad(whitened, (0, 1), value=1.0).bfloat16()

    def _sample(self, images: torch.Tensor, count: int, rng: torch.Generator) -> torch.Tensor:
        """(count, d) float64 normalised patches at random places of random images."""
        height, width = images.shape[2:]
        which = torch.randint(len(images), (count,), generator=rng)
        tops = torch.randint(height - self.patch + 1, (count,), generator=rng)
        lefts = torch.randint(width - self.patch + 1, (count,), generator=rng)
        offsets = torch.arange(self.patch)
        rows, columns = tops[:, None, None] + offsets[:, None], lefts[:, None, None] + offsets
        found = images.cpu()[which[:, None, None], :, rows, columns]  # (count, patch, patch, C)
        return _normalised(found.permute(0, 3, 1, 2).flatten(1).to(images.device).double())

    def _whitening(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean (d,) and symmetric whitening matrix (d, d) of patches (count, d), float64."""
        mean = patches.mean(0)
        centred = patches - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(patches))
        return mean, vectors @ torch.diag((values.clamp(min=0) + 0.1).rsqrt()) @ vectors.T


class ConvSystem:
    """K = ΦΦᵀ/(LEVELS²·columns) + INTERCEPT from the codes Φ of `ConvFeatures`.

    The mean of its diagonal is about 1. The constant is that of a feature that is the same for all
    images, the intercept of the others, which are centred. `beat` is called for each block of
    images that is multiplied, and may raise to stop.
    """

    def __init__(self, features: ConvFeatures, ridge: float, beat: Callable[[], None]) -> None:
        self.train, self.test = features.train, features.test
        self.ridge, self.beat = ridge, beat
        self.n, columns = self.train.shape
        self._unit = LEVELS**2 * columns

    def tile(self, rows: slice, columns: slice) -> torch.Tensor:
        return _inner(self.train[rows], self.train[columns].T) / self._unit + INTERCEPT

    def outputs(self, coefficients: torch.Tensor) -> torch.Tensor:
        return self._applied(self.train, coefficients)

    def outputs_at(self, coefficients: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return self._applied(self.train[rows], coefficients)

    def predictions(self, coefficients: torch.Tensor) -> torch.Tensor:
        return self._applied(self.test, coefficients)

    def _applied(self, codes: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        """The kernel between `codes` and the training images, times the coefficients, float64."""
        parts = coefficients.split(OUTPUTS, 1)
        features = torch.cat([self._features_applied(codes, part) for part in parts], 1)
        return features.div_(self._unit).add_(INTERCEPT * coefficients.sum(0))

    def _features_applied(self, codes: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        weights = coefficients.new_zeros(coefficients.shape[1], codes.shape[1])
        for a, part in zip(coefficients.split(BLOCK), self.train.split(BLOCK), strict=True):
            weights += _product(a.T, part)
            self.beat()
        outputs = coefficients.new_empty(len(codes), len(weights))
        for part, here in zip(codes.split(BLOCK), outputs.split(BLOCK), strict=True):
            here.copy_(_product(weights, part.T).T)
            self.beat()
        return outputs


def shared(
    train: torch.Tensor,
    test: torch.Tensor,
    filters: int,
    patch: int,
    stride: int,
    bias: float,
    rng: torch.Generator,
    beat: Callable[[], None],
) -> ConvFeatures:
    """The features of `ConvFeatures`' arguments, with a `rng` that nothing was drawn from yet.

    Runs of one process share the last ones made, so that those of several ridges cost them once.
    """
    key = (filters, patch, stride, bias, rng.initial_seed(), _digest(train), _digest(test))
    if key not in _made:
        _made.clear()
        _made[key] = ConvFeatures(train, test, filters, patch, stride, bias, rng, beat)
    return _made[key]


_made: dict[tuple[object, ...], ConvFeatures] = {}


def _digest(images: torch.Tensor) -> str:
    content = images.cpu().contiguous().numpy().data
    return f"{images.shape} {images.device} {hashlib.sha256(content).hexdigest()}"


def _normalised(patches: torch.Tensor) -> torch.Tensor:
    """Each row minus its mean, over √(variance + 10/255²)."""
    centred = patches - patches.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 10 / 255**2).sqrt()


def _products(patches: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """patches·filtersᵀ for (m, d) and (k, d) bfloat16, summed in float32."""
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if patches.device.type == "cpu" and not fast:
        return F.linear(patches.float(), filters.float())
    return F.linear(patches, filters)


def _positive(values: torch.Tensor) -> torch.Tensor:
    """max(0, values), in place."""
    if values.dtype is torch.bfloat16:
        values.view(torch.int16).clamp_(min=0)  # the sign bit is the same; seven times as fast
        return values
    return values.clamp_(min=0)


def _product(values: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """values·codes for (r, k) float64 and (k, l) int8, with the error of float64's rounding.

    The values become DIGITS whole numbers each, whose products with the codes are exact, and on a
    CPU ten times as fast as the codes' conversion to float64.
    """
    unit = values.abs().amax(1, keepdim=True) / 127
    rest = values / unit.where(unit != 0, 1.0)
    digits = []
    for _ in range(DIGITS):
        digits.append(rest.round())
        rest = (rest - digits[-1]) * 128
    found = _inner(torch.cat(digits).to(torch.int8), codes).unflatten(0, (DIGITS, len(values)))
    places = 128.0 ** -torch.arange(DIGITS, dtype=torch.float64, device=values.device)
    return torch.tensordot(places, found, 1) * unit


def _inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a·b for codes (m, k) and (k, l), exactly: (m, l) float64."""
    parts = zip(a.split(WIDTH, 1), b.split(WIDTH), strict=True)
    if a.device.type == "cpu" and hasattr(torch, "_int_mm"):
        return torch.stack([torch._int_mm(x, y).double() for x, y in parts]).sum(0)
    return torch.stack([x.double() @ y.double() for x, y in parts]).sum(0)

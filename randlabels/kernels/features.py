"""Features of images for kernels: Gabor wavelets, and a random one-layer convolutional network."""

import logging
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

log = logging.getLogger("randlabels")

WHITENING_PATCHES = 100_000  # from which their mean and covariance are estimated
STATISTICS_IMAGES = 1000  # from which the features' means and deviations are estimated
# Codes reach ±6.35 standard deviations; fewer than one feature in a thousand lies beyond. Rounding
# adds 2·10⁻⁴ to K's diagonal of about 1.
CODES_PER_DEVIATION = 20
FILTERS_AT_ONCE = 1000  # with about twice as many patches, activations fit into the cache


class ConvFeatures:
    """Φ with 4 columns a filter: patches, whitening, ReLU, means over quadrants, in 8 bits.

    Zhang et al. 2017, Table 3, has a "random convolutional net with 32,000 random filters" and
    gives no other detail. This is the network of Coates, Lee and Ng 2011 with random instead of
    learnt filters. From images (N, C, H, W) float32 with pixels in 0..1:

    - each patch of `patch` x `patch` pixels, every `stride` pixels, minus its mean, over
      √(variance + 10/255²), then ZCA-whitened with the training patches' covariance + 0.1;
    - a filter is a random whitened training patch over its norm; activation max(0, ⟨f, p⟩ - bias);
    - the mean over each quadrant of the image; for an odd number of positions the middle ones
      belong to both sides;
    - minus its mean over STATISTICS_IMAGES training images, over its standard deviation there,
      times CODES_PER_DEVIATION, rounded to a whole number from -127 to 127.

    Patches, filters and activations are rounded to bfloat16, whose products have twice the speed
    of float32 on processors that support it; others multiply the same numbers in float32. Between
    processors, a code may differ by one. The codes define Φ: a random map loses nothing by
    rounding, and K is computed from them without error.

    size: filters, patch, stride, bias. train: (n, 4·F) int8; test: (m, 4·F) int8. `beat` is called
    every few images, and may raise to stop.
    """

    def __init__(
        self,
        train: Tensor,
        test: Tensor,
        size: tuple[int, int, int, float],
        rng: Generator,
        beat: Callable[[], None],
    ) -> None:
        filters, self.patch, self.stride, bias = size
        self.beat = beat
        # patches in a column and in a row of an image, and images with about 2·FILTERS_AT_ONCE
        height, width = ((side - self.patch) // self.stride + 1 for side in train.shape[2:])
        self.positions = height, width
        self.images_at_once = max(1, 2 * FILTERS_AT_ONCE // (height * width))
        patches = self._draw_patches(train, WHITENING_PATCHES, rng)
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(patches.T, correction=0))
        whitening = vectors @ torch.diag((values.clamp(min=0) + 0.1).rsqrt()) @ vectors.T
        whitened = (self._draw_patches(train, filters, rng) - mean) @ whitening
        # whitened patches (p - m)·W end in a 1, which is multiplied by the bias
        self.filters = F.pad(F.normalize(whitened), (0, 1), value=-bias).bfloat16()
        self.whitening, self.offset = whitening.float(), (mean @ whitening).float()

        order = torch.randperm(len(train), generator=rng).to(train.device)
        few = train[order[:STATISTICS_IMAGES]].split(self.images_at_once)
        sample = torch.cat([self.activations(images).float() for images in few])
        deviation, self.mean = torch.std_mean(sample, 0, correction=0)
        # the deviation of a filter that never fires is 0
        self.scale = CODES_PER_DEVIATION / deviation.clamp(min=1e-3)
        self.train, self.test = self._encode(train), self._encode(test)

    def activations(self, images: Tensor) -> Tensor:
        """Return means over quadrants (N, 4·F), bfloat16 or float32, of a few images."""
        height, width = self.positions
        patches = F.unfold(images, self.patch, stride=self.stride).transpose(1, 2).flatten(0, 1)
        whitened = _normalise(patches) @ self.whitening - self.offset
        patches = F.pad(whitened, (0, 1), value=1.0).bfloat16()
        parts = []
        for filters in self.filters.split(FILTERS_AT_ONCE):
            active = _multiply(patches, filters).relu_().view(len(images), height, width, -1)
            parts.append(F.adaptive_avg_pool2d(active.permute(0, 3, 1, 2), 2).flatten(1))
        return torch.cat(parts, 1)

    def _encode(self, images: Tensor) -> Tensor:
        log.info("Computing the features of %d images.", len(images))
        codes = self.mean.new_empty(len(images), len(self.mean), dtype=torch.int8)
        few = self.images_at_once
        for part, target in zip(images.split(few), codes.split(few), strict=True):
            whole = self.activations(part).float().sub_(self.mean).mul_(self.scale).round_()
            target.copy_(whole.clamp_(-127, 127))
            self.beat()
        return codes

    def _draw_patches(self, images: Tensor, count: int, rng: Generator) -> Tensor:
        """Draw (count, d) float64 normalised patches at random places of random images."""
        height, width = images.shape[2:]
        which = torch.randint(len(images), (count,), generator=rng)
        tops = torch.randint(height - self.patch + 1, (count,), generator=rng)
        lefts = torch.randint(width - self.patch + 1, (count,), generator=rng)
        windows = images.cpu().unfold(2, self.patch, 1).unfold(3, self.patch, 1)
        patches = windows[which, :, tops, lefts]  # (count, C, patch, patch)
        return _normalise(patches.flatten(1).to(images.device).double())


def _normalise(patches: Tensor) -> Tensor:
    """Return each row minus its mean, over √(variance + 10/255²)."""
    return F.layer_norm(patches, patches.shape[1:], eps=10 / 255**2)


def _multiply(patches: Tensor, filters: Tensor) -> Tensor:
    """Return patches·filtersᵀ for (m, d) and (k, d) bfloat16, summed in float32."""
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if patches.device.type == "cpu" and not fast:
        return F.linear(patches.float(), filters.float())
    return F.linear(patches, filters)


def gabor(images: Tensor, orientations: int, wavelengths: list[float], pool: int) -> Tensor:
    """Return (N, C·orientations·len(wavelengths)·h·w) float32 for images (N, C, H, W) float32.

    For each orientation in [0, π) and each wavelength (pixels), the modulus of the complex
    response is averaged over cells of `pool` x `pool` pixels (h = ⌈H/pool⌉). The paper says
    "Gabor filters (wavelet)" and gives no parameter (Table 3). Those of sweeps/paper/table3.yaml
    were chosen on held-out training images.
    """
    channels = images.shape[1]
    scales = []
    for wavelength in wavelengths:
        filters = gabor_filters(orientations, wavelength).to(images.device)
        bank = filters.repeat(channels, 1, 1)[:, None]
        cells = []
        for few in images.split(500):
            response = F.conv2d(few, bank, padding=filters.shape[-1] // 2, groups=channels)
            modulus = response.unflatten(1, (-1, 2)).norm(dim=2)
            means = F.avg_pool2d(modulus, pool, ceil_mode=True, count_include_pad=False)
            cells.append(means.flatten(1))
        scales.append(torch.cat(cells))
    return torch.cat(scales, 1)


def gabor_filters(orientations: int, wavelength: float) -> Tensor:
    """Return real and imaginary part of each orientation's filter, (2·orientations, k, k) float32.

    exp(-|u|²/(2σ²))·(exp(i·2π·u_θ/wavelength) - c) with σ = wavelength/2 (a bandwidth of about an
    octave), k = 2·⌈2σ⌉ + 1, c such that the mean is zero (Morlet), and unit L1 norm.
    """
    deviation = wavelength / 2
    radius = math.ceil(2 * deviation)
    grid = torch.arange(-radius, radius + 1, dtype=torch.float64)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    envelope = torch.exp(-(x**2 + y**2) / (2 * deviation**2))
    angles = math.pi * torch.arange(orientations, dtype=torch.float64)[:, None, None] / orientations
    phase = 2 * math.pi * (x * angles.cos() + y * angles.sin()) / wavelength
    mean = (envelope * phase.cos()).sum((1, 2), keepdim=True) / envelope.sum()
    filters = torch.stack([envelope * (phase.cos() - mean), envelope * phase.sin()], 1)
    sizes = filters.norm(dim=1).sum((1, 2))
    return (filters / sizes[:, None, None, None]).flatten(0, 1).float()

"""Gabor wavelets, as features for kernels."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


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
        margin = filters.shape[-1] // 2
        bank = filters.repeat(channels, 1, 1)[:, None]
        cells = []
        for few in images.split(500):
            response = F.conv2d(few, bank, padding=margin, groups=channels)
            pairs = response.unflatten(1, (channels * orientations, 2))
            modulus = pairs.square().sum(2).sqrt()
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

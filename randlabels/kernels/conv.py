"""The linear kernel of a random one-layer convolutional network, a batch of filters at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from .cholesky import BLOCK, Triangle, product


class ConvSystem:
    """K = Φ·Φᵀ where Φ has 4 columns a filter: patches, whitening, ReLU, means over quadrants.

    The "random convolutional net with 32,000 random filters" of Zhang et al. 2017, Table 3, which
    says no more of it, is taken to be the network of Coates, Lee and Ng 2011 with random instead
    of learnt filters. From images (N, C, H, W) float32 with pixels in 0..1:

    - each patch of `patch` x `patch` pixels, every `stride` pixels, minus its mean, over
      √(variance + 10/255²), then ZCA-whitened with the training patches' covariance + 0.1;
    - a filter is a random whitened training patch over its norm; activation max(0, ⟨f, p⟩ - bias);
    - the mean over each quadrant of the image.

    Φ itself, 128,000 columns for 32,000 filters, is never stored: `outputs` makes it anew.
    """

    BATCH = 2000
    """Filters at a time: Φ of 50,000 images then takes 1.5 GiB."""

    SAMPLE = 100_000
    """Patches from which mean and covariance are estimated."""

    def __init__(
        self,
        train: torch.Tensor,
        test: torch.Tensor,
        filters: int,
        patch: int,
        stride: int,
        bias: float,
        ridge: float,
        rng: torch.Generator,
    ) -> None:
        self.train, self.test = train, test
        self.patch, self.stride, self.ridge = patch, stride, ridge
        self.n = len(train)
        self._weights: list[torch.Tensor] = []

        mean, whitening = self._whitening(self._sample(self.SAMPLE, rng))
        whitened = (self._sample(filters, rng) - mean) @ whitening
        unit = whitened / whitened.norm(dim=1, keepdim=True).clamp(min=1e-12)
        # ⟨f, W(p - m)⟩ - bias = ⟨Wf, p⟩ - (⟨Wf, m⟩ + bias): one product with a column of ones
        directions = unit @ whitening
        constant = directions @ mean + bias
        self.filters = torch.cat([directions, -constant[:, None]], 1).float()

    def fill(self, triangle: Triangle) -> None:
        triangle.values.zero_()
        for filters in self.filters.split(self.BATCH):
            features = self._features(self.train, filters).to(triangle.values.dtype)
            for j, panel in enumerate(triangle.panels):
                first = j * BLOCK
                columns = features[first : first + panel.shape[1]]
                for target, rows in zip(
                    panel.split(BLOCK), features[first:].split(BLOCK), strict=True
                ):
                    target.add_(product(rows, columns))
        for panel in triangle.panels:
            panel[: panel.shape[1]].diagonal().add_(self.ridge)

    def outputs(self, coefficients: torch.Tensor) -> torch.Tensor:
        outputs = torch.zeros_like(coefficients)
        self._weights = []
        for filters in self.filters.split(self.BATCH):
            features = self._features(self.train, filters)
            weights = sum(
                part.double().T @ a
                for part, a in zip(features.split(BLOCK), coefficients.split(BLOCK), strict=True)
            )
            self._weights.append(weights)
            for part, target in zip(features.split(BLOCK), outputs.split(BLOCK), strict=True):
                target.add_(part.double() @ weights)
        return outputs

    def outputs_at(self, coefficients: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return self.outputs(coefficients)[rows]

    def predictions(self, coefficients: torch.Tensor) -> torch.Tensor:
        outputs = coefficients.new_zeros(len(self.test), coefficients.shape[1])
        for filters, weights in zip(self.filters.split(self.BATCH), self._weights, strict=True):
            outputs += self._features(self.test, filters).double() @ weights
        return outputs

    def _features(self, images: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
        """(N, 4·F) float32, the columns of Φ that belong to `filters` (F, d + 1)."""
        height, width = self._positions(images)
        quadrants = torch.zeros(2, 2, height, width, device=images.device)
        for (vertical, rows), (horizontal, columns) in itertools.product(
            enumerate((slice(height // 2), slice(height // 2, None))),
            enumerate((slice(width // 2), slice(width // 2, None))),
        ):
            area = quadrants[vertical, horizontal, rows, columns]
            area += 1 / area.numel()
        means = quadrants.view(4, height * width)
        parts = []
        for patches in self._patches(images):
            active = product(patches, filters).clamp_(min=0)
            parts.append((means @ active.view(-1, height * width, len(filters))).flatten(1))
        return torch.cat(parts)

    def _positions(self, images: torch.Tensor) -> tuple[int, int]:
        """Patches in a column and in a row of the image."""
        height, width = images.shape[2:]
        return (height - self.patch) // self.stride + 1, (width - self.patch) // self.stride + 1

    def _patches(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        """Normalised patches (images·h·w, d + 1) of a few images at a time, with a 1 at the end."""
        height, width = self._positions(images)
        for part in images.split(max(1, BLOCK // (height * width))):
            patches = F.unfold(part, self.patch, stride=self.stride).transpose(1, 2).flatten(0, 1)
            yield F.pad(_normalised(patches), (0, 1), value=1.0)

    def _sample(self, count: int, rng: torch.Generator) -> torch.Tensor:
        """(count, d) float64 normalised patches at random places of random training images."""
        channels, height, width = self.train.shape[1:]
        which = torch.randint(self.n, (count,), generator=rng)
        tops = torch.randint(height - self.patch + 1, (count,), generator=rng)
        lefts = torch.randint(width - self.patch + 1, (count,), generator=rng)
        offsets = torch.arange(self.patch)
        rows, columns = tops[:, None, None] + offsets[:, None], lefts[:, None, None] + offsets
        images = self.train.cpu()
        found = images[which[:, None, None], :, rows, columns]  # (count, patch, patch, C)
        return _normalised(found.permute(0, 3, 1, 2).flatten(1).to(self.train.device).double())

    def _whitening(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean (d,) and symmetric whitening matrix (d, d) of patches (count, d), float64."""
        mean = patches.mean(0)
        centred = patches - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(patches))
        return mean, vectors @ torch.diag((values.clamp(min=0) + 0.1).rsqrt()) @ vectors.T


def _normalised(patches: torch.Tensor) -> torch.Tensor:
    """Each row minus its mean, over √(variance + 10/255²)."""
    centred = patches - patches.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 10 / 255**2).sqrt()

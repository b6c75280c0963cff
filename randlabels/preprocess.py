"""Preprocessing: from stored pixels (uint8, 0..255) to what the model sees (float32)."""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch

from .schema import Option

Moments = tuple[torch.Tensor, torch.Tensor]  # channel means and deviations, (C,), in 0..255


class Preprocess(Option):
    """Base class of the group `preprocess`: a crop, then a normalisation."""

    def crop(self, images: torch.Tensor) -> torch.Tensor:
        """Return the fixed part (B, C, h, w) of images (B, C, H, W) that the model sees.

        By default the whole image. Cropping twice changes nothing. ValueError if it is too small.
        """
        return images

    @abstractmethod
    def __call__(self, images: torch.Tensor, moments: Moments) -> torch.Tensor:
        """Return (B, C, h, w) float32 from cropped float32 `images` in 0..255.

        It may overwrite the images, and is differentiable in them.
        """


@dataclass
class Standardize(Preprocess):
    """(x - mean) / deviation, by channel, with the moments of `randlabels.dataset.Data`."""

    name = "standardize"

    def __call__(self, images: torch.Tensor, moments: Moments) -> torch.Tensor:
        mean, deviation = (m[:, None, None] for m in moments)
        return images.sub_(mean).div_(deviation)


@dataclass
class Paper(Preprocess):
    """Centre crop to 28×28, x/255, whitening of each image: (x - mean) / max(deviation, 1/√N).

    Mean and deviation (the population's) are over the N = C·28·28 values of the image.

    Source: Zhang et al. 2017, appendix A, which whitens with TensorFlow's `per_image_whitening`.
    """

    name = "paper"

    side = 28

    def crop(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[-2:]
        if min(height, width) < self.side:
            raise ValueError(
                f"preprocess=paper crops to {self.side}x{self.side} pixels and the images have "
                f"{height}x{width}; use preprocess=standardize, scale or none"
            )
        top, left = (height - self.side) // 2, (width - self.side) // 2
        return images[..., top : top + self.side, left : left + self.side]

    def __call__(self, images: torch.Tensor, moments: Moments) -> torch.Tensor:
        images = images / 255.0
        images -= images.mean((1, 2, 3), keepdim=True)
        # not torch.var_mean, which takes ten times as long on a CPU
        variance = images.square().mean((1, 2, 3), keepdim=True)
        deviation = variance.clamp(min=1e-12).sqrt()  # the bound gives it a gradient at 0
        # not in place, since the gradient of the deviation needs the images
        return images / deviation.clamp(min=1 / math.sqrt(images[0].numel()))


@dataclass
class Scale(Preprocess):
    """x / 255, in 0..1."""

    name = "scale"

    def __call__(self, images: torch.Tensor, moments: Moments) -> torch.Tensor:
        return images.div_(255.0)


@dataclass
class Unchanged(Preprocess):
    """x as it is stored, in 0..255."""

    name = "none"

    def __call__(self, images: torch.Tensor, moments: Moments) -> torch.Tensor:
        return images

"""Augmentation of training batches, drawn for every image in every epoch.

It acts on whole stored images, before the fixed crop and the normalisation of `preprocess`. Pixels
from outside of the image are black (0). Images are never augmented for an evaluation.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .schema import Option

PADDING = 4  # black pixels on each side before a random crop back to the image's own size
Size = tuple[int, int]  # height and width in pixels


class Augment(Option):
    """Base class of the group `augment`."""

    @abstractmethod
    def __call__(self, images: torch.Tensor, size: Size, rng: torch.Generator) -> torch.Tensor:
        """Return randomly changed `images` (B, C, H, W) float32 in 0..255.

        size: height and width that the model sees; the result has the images' size or this one.
        rng: generator of all draws, on the images' device.
        """


@dataclass
class Unchanged(Augment):
    """No augmentation, as in all experiments of the original code."""

    name = "none"

    def __call__(self, images: torch.Tensor, size: Size, rng: torch.Generator) -> torch.Tensor:
        return images


@dataclass
class RandomCrop(Augment):
    """A random crop: of the size that the model sees, out of the image.

    With preprocess=paper that is 28×28 out of CIFAR-10's 32×32, in place of the centre crop. Where
    the model sees whole images, 4 black pixels are added on each side first, as in `crop_flip`.
    Source: Zhang et al. 2017, section 3 and Table 1 ("random crop").
    """

    name = "random_crop"

    def __call__(self, images: torch.Tensor, size: Size, rng: torch.Generator) -> torch.Tensor:
        if images.shape[2:] == size:
            images = F.pad(images, [PADDING] * 4)
        return random_crops(images, size, rng)


@dataclass
class CropFlip(Augment):
    """4 black pixels on each side, a random crop back to the size, a random left-right flip.

    Source: He et al. 2016, section 4.2, with the padding of the original code's option
    `data_augmentation` (pluskid/fitting-random-labels, train.py), black before normalisation.
    """

    name = "crop_flip"

    def __call__(self, images: torch.Tensor, size: Size, rng: torch.Generator) -> torch.Tensor:
        height, width = images.shape[2:]
        padded = F.pad(images, [PADDING] * 4)
        return random_flips(random_crops(padded, (height, width), rng), rng)


@dataclass
class FlipRotate(Augment):
    """A random left-right flip and a rotation by a uniform angle of up to ±25°, bilinear.

    Source: Zhang et al. 2017, footnote of Table 4; it names neither the interpolation nor what
    fills the corners, here black.
    """

    name = "flip_rotate"
    rules = {"degrees": (lambda angle: 0 <= angle <= 180, "between 0 and 180")}

    degrees: float = 25.0

    def __call__(self, images: torch.Tensor, size: Size, rng: torch.Generator) -> torch.Tensor:
        images = random_flips(images, rng)
        draws = torch.rand(len(images), generator=rng, device=images.device)
        return rotate(images, (2 * draws - 1) * math.radians(self.degrees))


def random_crops(images: torch.Tensor, size: Size, rng: torch.Generator) -> torch.Tensor:
    """Return (B, C, h, w) from (B, C, H, W): a window per image, each position equally likely."""
    windows = images.unfold(2, size[0], 1).unfold(3, size[1], 1)  # (B, C, tops, lefts, h, w)
    top, left = (
        torch.randint(places, (len(images),), generator=rng, device=images.device)
        for places in windows.shape[2:4]
    )
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def random_flips(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Mirror each image (C, H, W) of a batch left to right with probability 1/2."""
    flipped = torch.rand(len(images), generator=rng, device=images.device) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


def rotate(images: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Turn each image (C, H, W) of a batch counterclockwise about its centre, bilinearly.

    angles: (B,) in radians. Pixels outside of the image are 0.
    """
    height, width = images.shape[2:]
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # Maps positions in the result to positions in the image, both in -1..1 along each side.
    row_x = torch.stack([cos, -sin * height / width, zero], 1)
    row_y = torch.stack([sin * width / height, cos, zero], 1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)

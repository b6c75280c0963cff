"""A network with its preprocessing: from stored pixels to logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from .experiment import Experiment
from .machine.resources import Resources

EVALUATION_BATCH = {"cpu": 128, "cuda": 4096}
"""Images per forward pass in evaluation: on a CPU, as many as its caches hold the activations of
(WRN-28-1 on 2 cores, images/s: 64: 1,600; 128: 1,830; 512: 1,300)."""


class Classifier:
    """What `model` makes of pixels, on the device and in the precision of `resources`.

    size: height and width of an image as the model sees it.
    trained: the model in training steps, compiled where that is asked for.
    """

    def __init__(self, experiment: Experiment, model: nn.Module, resources: Resources) -> None:
        self.model = model
        self.trained = torch.compile(model) if resources.compile else model
        self.preprocess = experiment.config.preprocess
        mean, deviation = (moment.to(resources.device) for moment in experiment.moments)
        self.moments = mean, deviation
        self.kind = resources.kind
        self.bf16 = resources.precision == "bf16"
        self.memory_format = memory_format(model)
        height, width = self.preprocess.crop(experiment.test.images[:1]).shape[2:]
        self.size = height, width

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) in 0..255 of any dtype, as float32; a copy, since preprocessing may
        overwrite it and altered images are float32 already."""
        return images.to(torch.float32, memory_format=self.memory_format, copy=True)

    def inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the model sees of `pixels`, (B, C, H, W) float32 in 0..255."""
        seen = self.preprocess(self.preprocess.crop(pixels), self.moments)
        return seen.contiguous(memory_format=self.memory_format)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) float32 of a training step, in the run's precision."""
        # the cache of casts is one for all threads: other runs' gradients would pass through it
        with torch.autocast(self.kind, torch.bfloat16, self.bf16, cache_enabled=False):
            return self.trained(self.inputs(pixels)).float()

    def exactly(self, pixels: torch.Tensor) -> torch.Tensor:
        """The same in float32, unless the caller asks for another precision."""
        return self.model(self.inputs(pixels)).float()

    def predict(self, images: torch.Tensor, pause: Callable[[], None]) -> torch.Tensor:
        """Logits (N, K) of all images, with the model in eval mode; `pause` after each batch."""
        self.model.eval()
        outputs = []
        with torch.inference_mode(), torch.autocast(self.kind, torch.bfloat16, self.bf16):
            for batch in images.split(EVALUATION_BATCH[self.kind]):
                outputs.append(self.exactly(self.pixels(batch)))
                pause()
            return torch.cat(outputs)


def memory_format(model: nn.Module) -> torch.memory_format:
    """Convolutions are faster with the channels last; flattening wants them first."""
    if any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
        return torch.channels_last
    return torch.contiguous_format

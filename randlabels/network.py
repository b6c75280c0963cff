"""A network with its preprocessing: from stored pixels to logits."""

from collections.abc import Callable

import torch
from torch import nn

from .experiment import Experiment
from .machine.resources import Resources

EVALUATION_BATCH = {"cpu": 128, "cuda": 1024}
"""Images per forward pass in evaluation. A CPU's caches hold the activations of 128 (WRN-28-1 on 2
cores, images/s: 64: 1,600; 128: 1,830; 512: 1,300); 1024 keep a GPU busy with little memory."""


class Classifier:
    """Logits of `model` from pixels, on the device and in the precision of `resources`.

    size: height and width of an image as the model sees it.
    trained: the model in training steps, compiled on request.
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
        """Return a float32 copy, which preprocessing may overwrite, of (B, C, H, W) in 0..255."""
        return images.to(torch.float32, memory_format=self.memory_format, copy=True)

    def inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return preprocessed `pixels`, which are (B, C, H, W) float32 in 0..255."""
        mean, deviation = (moment.to(pixels.device) for moment in self.moments)
        seen = self.preprocess(self.preprocess.crop(pixels), (mean, deviation))
        return seen.contiguous(memory_format=self.memory_format)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) float32 of a training step, in the run's precision."""
        # A captured step must not read casts that were cached outside of it.
        with torch.autocast(self.kind, torch.bfloat16, self.bf16, cache_enabled=False):
            return self.trained(self.inputs(pixels)).float()

    def exactly(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of the model as it is, in float32 unless under autocast."""
        return self.model(self.inputs(pixels)).float()

    def predict(self, images: torch.Tensor, pause: Callable[[], None]) -> torch.Tensor:
        """Return logits (N, K) in eval mode; `pause` is called after each batch."""
        self.model.eval()
        outputs = []
        with torch.inference_mode(), torch.autocast(self.kind, torch.bfloat16, self.bf16):
            for batch in images.split(EVALUATION_BATCH[self.kind]):
                outputs.append(self.exactly(self.pixels(batch)))
                pause()
            return torch.cat(outputs)


class Network(nn.Module):
    """A fitted network, in eval mode: from stored images to logits, as its run computes them.

    kind: "cpu" or "cuda", where the run computed; elsewhere the network computes in fp32.
    """

    def __init__(self, experiment: Experiment, model: nn.Module, precision: str, kind: str) -> None:
        super().__init__()
        self.model = model.to(memory_format=memory_format(model))
        self._classifier = Classifier(experiment, model, Resources("cpu", precision, threads=1))
        self._kind = kind
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) float32 of images (B, C, H, W) in 0..255, of any dtype."""
        device = next(self.parameters()).device
        bf16 = self._classifier.bf16 and device.type == self._kind
        with torch.autocast(device.type, torch.bfloat16, bf16):
            return self._classifier.exactly(self._classifier.pixels(images.to(device)))


def memory_format(model: nn.Module) -> torch.memory_format:
    """Return channels_last for models with convolutions, which run faster in it."""
    if any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
        return torch.channels_last
    return torch.contiguous_format

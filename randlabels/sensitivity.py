"""Loss sensitivity and critical samples: reactions to small changes of training images.

Source: Arpit et al. 2017, "A Closer Look at Memorization in Deep Networks", sections 3.2 and 5, and
the search as their code has it (xingjunm/dimensionality-driven-learning, lass_tf.py).

Images are (n, C, H, W) float32 in 0..255, as stored. `logits` returns (n, K) float32, each row from
its image alone, and is differentiable.
"""

import math
from collections.abc import Callable

import torch

# Constants of the search for stored pixels in 0..255; the paper has 0.25/255, 0.2/255 and 0.3/255
# for pixels in 0..1.
STEP, NOISE, RADIUS = 0.25, 0.2, 0.3
MAX_ITERATIONS = 100
Logits = Callable[[torch.Tensor], torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def loss_gradients(
    logits: Logits, loss: Loss, images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Return (n,) float64: ‖∂L/∂x‖₁ of each image's loss, for x in 0..1."""
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits(x), labels).sum(), x)
    return 255 * gradient.flatten(1).abs().sum(1, dtype=torch.float64)


def gini(values: torch.Tensor) -> float:
    """Return the Gini coefficient of (n,) values of at least 0.

    It is Σ|a - b| over all pairs / (2·n²·mean): 0 if all are equal, (n - 1)/n if one has all.
    """
    n, total = len(values), values.sum().item()
    if total == 0:
        return 0.0
    rank = torch.arange(1, n + 1, dtype=torch.float64, device=values.device)
    return ((2 * rank - n - 1) @ values.double().sort().values).item() / (n * total)


def critical(logits: Logits, images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Return (n,) bool: whether an image within RADIUS per pixel has another predicted class.

    Each iteration adds STEP·sign(∇) + NOISE·N(0, 1) to each pixel, and clips the sum to the box
    around the image. It ends when the class changes, or after MAX_ITERATIONS. ∇ is the gradient
    of the cross-entropy against the class first predicted. The rng is on the images' device.
    """
    with torch.no_grad():
        predicted = logits(images).argmax(1)
    left, near = torch.arange(len(images), device=images.device), images
    for iteration in range(MAX_ITERATIONS + 1):
        x = near.detach().requires_grad_()
        outputs = logits(x)
        stays = outputs.argmax(1) == predicted[left]
        left = left[stays]
        if iteration == MAX_ITERATIONS or not len(left):
            break
        (gradient,) = torch.autograd.grad(_doubt(outputs[stays], predicted[left]).sum(), x)
        noise = torch.randn(gradient[stays].shape, generator=rng, device=rng.device)
        moved = near[stays] + STEP * gradient[stays].sign() + NOISE * noise
        near = images[left] + (moved - images[left]).clamp(-RADIUS, RADIUS)
    found = torch.ones(len(images), dtype=torch.bool, device=images.device)
    found[left] = False
    return found


def _doubt(outputs: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return (n,) log Σ exp of the other classes' outputs, minus the output of class `label`.

    Its gradient is that of the cross-entropy up to a positive factor, which rounds to 0 where the
    network is certain.
    """
    own = label[:, None]
    others = outputs.scatter(1, own, -math.inf).logsumexp(1)
    return others - outputs.gather(1, own).squeeze(1)

"""Training dynamics, the statistics of each example over the evaluations of a fit."""

import torch

from .dataset import Split

SNAPSHOT_EPOCHS = (0, 2, 9, 29, 99, 299)  # 0-based; losses and margins after them are kept
NEVER = -1  # epoch of an event that has not happened; prediction before the first evaluation

# Statistics (N,) by name. They are plain tensors, so that a checkpoint can hold them.
Dynamics = dict[str, torch.Tensor]


def update(
    earlier: Dynamics | None,
    epoch: int,
    times: int,
    logits: torch.Tensor,
    labels: torch.Tensor,
    losses: torch.Tensor,
) -> Dynamics:
    """Return the statistics after another evaluation.

    earlier: those before it; None before the first.
    times: number of evaluations so far, with this one.
    logits: (N, K) float32.
    labels: (N,) int64 in [0, K), those trained on.
    losses: (N,) float32.

    forgotten counts transitions from right to wrong (Toneva et al. 2019 count over training
    batches), margin is the mean of logit(label) minus the largest other logit (Pleiss et al. 2020),
    confidence and variance are those of the probability of the label (Swayamdipta et al. 2020).
    """
    earlier = earlier or _begin(labels)
    prediction, column = logits.argmax(1), labels[:, None]
    right = prediction == labels
    others = logits.scatter(1, column, -torch.inf).amax(1)
    margin = logits.gather(1, column)[:, 0] - others
    deviation = logits.softmax(1).gather(1, column)[:, 0] - earlier["confidence"]
    # Running mean and variance (Welford 1962) in float64.
    product = deviation.square() * (times - 1) / times
    found = {
        "prediction": prediction.int(),
        "first_learned": torch.where(
            right & (earlier["first_learned"] == NEVER), epoch, earlier["first_learned"]
        ),
        "last_wrong": torch.where(right, earlier["last_wrong"], epoch),
        "forgotten": earlier["forgotten"] + ((earlier["prediction"] == labels) & ~right),
        "margin": earlier["margin"] + (margin - earlier["margin"]) / times,
        "confidence": earlier["confidence"] + deviation / times,
        "variance": earlier["variance"] + (product - earlier["variance"]) / times,
        "loss": losses.float(),
    }
    if epoch in SNAPSHOT_EPOCHS:
        found |= {f"loss_epoch_{epoch}": losses.float(), f"margin_epoch_{epoch}": margin}
    return {**earlier, **found}


def _begin(labels: torch.Tensor) -> Dynamics:
    epochs = torch.full_like(labels, NEVER, dtype=torch.int32)
    zeros = torch.zeros_like(labels, dtype=torch.float64)
    start = dict.fromkeys(("prediction", "first_learned", "last_wrong"), epochs)
    start["forgotten"] = torch.zeros_like(epochs)
    return start | dict.fromkeys(("margin", "confidence", "variance"), zeros)


def encode(dynamics: Dynamics, train: Split) -> bytes:
    """Return the content of examples.parquet: a row for each training example, in their order."""
    import pandas as pd  # half a second, which only runs with examples=true need

    found = {name: values.cpu().numpy() for name, values in dynamics.items()}
    found["variability"] = found.pop("variance") ** 0.5
    labels = {"index": train.index, "true": train.true, "label": train.labels}
    table = pd.DataFrame({**labels, "changed": train.changed})
    for name in ("prediction", "first_learned", "last_wrong", "forgotten"):
        table[name] = found.pop(name).astype("int64")
    for name in ("first_learned", "last_wrong"):
        table[name] = table[name].astype("Int64").mask(table[name] == NEVER)
    for name in ("margin", "confidence", "variability", "loss", *found):
        table[name] = found[name].astype("float32")
    return bytes(table.to_parquet(index=False))

"""Initial weights and first training losses of every trained network, as committed.

    python -m tests.golden.networks        # rewrites networks.json

The losses are those of the first three fp32 steps on one thread, in batches of 16 fixed images,
through the `fit.sgd` that every run uses.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from randlabels import fit
from randlabels.config import parse
from randlabels.dataset import Data, Dataset, Split
from randlabels.experiment import assemble
from randlabels.loss import CrossEntropy
from randlabels.machine.resources import Resources

FILE = Path(__file__).parent / "networks.json"

NETWORKS: dict[str, dict[str, Any]] = {
    "wrn": {"name": "wrn"},
    "wrn_dropout": {"name": "wrn", "depth": 10, "widen": 2, "dropout": 0.3},
    "mlp": {"name": "mlp"},
    "alexnet": {"name": "alexnet"},
    "inception": {"name": "inception"},
    "inception_no_bn": {"name": "inception_no_bn"},
    "lenet": {"name": "lenet"},
    "resnet18": {"name": "resnet18"},
    "linear": {"name": "linear"},
}
"""Config keys of each network."""

STEPS, BATCH_SIZE = 3, 16


@dataclass
class FixedImages(Dataset):
    """Random pixels of a fixed seed, in the shape that the paper's networks see."""

    name = "fixed"

    def load(self) -> Data:
        rng = torch.Generator().manual_seed(0)
        count = STEPS * BATCH_SIZE
        images = torch.randint(0, 256, (count, 3, 28, 28), dtype=torch.uint8, generator=rng)
        labels = torch.randint(0, 10, (count,), generator=rng)
        return Data(Split(images, labels), Split(images[:2], labels[:2]), 10)


@dataclass
class RecordingLoss(CrossEntropy):
    """Cross-entropy that keeps the mean of every batch."""

    means: list[float] = dataclasses.field(default_factory=list)

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        values = super().__call__(logits, labels)
        self.means.append(values.mean().item())
        return values


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def record(network: str) -> dict[str, Any]:
    """Return parameter count, sha256 of the state_dict's names and of its bytes, first losses."""
    keys = {"epochs": 1, "batch_size": BATCH_SIZE, "optimizer": {"lr": 0.01}, "seed": 5}
    config = parse({**keys, "model": NETWORKS[network]})
    config = dataclasses.replace(config, dataset=FixedImages(), loss=RecordingLoss())
    resources = Resources("cpu", "fp32", 1)
    with one_thread():
        experiment = assemble(config)
        assert experiment.model is not None and isinstance(config.loss, RecordingLoss)
        state = experiment.model.state_dict()
        recorded: dict[str, Any] = {
            "parameters": sum(p.numel() for p in experiment.model.parameters()),
            "names": hashlib.sha256("\n".join(state).encode()).hexdigest(),
            "weights": hashlib.sha256(b"".join(map(_bytes, state.values()))).hexdigest(),
        }
        next(fit.sgd(experiment, fit.start(experiment, resources), resources))
    return recorded | {"losses": config.loss.means[:STEPS]}


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def main() -> None:
    recorded = {network: record(network) for network in NETWORKS}
    FILE.write_text(json.dumps(recorded, indent=2) + "\n")


if __name__ == "__main__":
    main()

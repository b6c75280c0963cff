"""Every random draw has its own generator, seeded by what the draw is for."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(purpose: str, seed: int, epoch: int = 0) -> int:
    """A seed in [0, 2**63) that depends on (purpose, seed, epoch) and on nothing else."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(
    purpose: str, seed: int, epoch: int = 0, device: str | torch.device = "cpu"
) -> torch.Generator:
    """A fresh generator for one purpose in one epoch, such as ("order", 0, 17).

    Since nothing draws from a shared stream, a resumed run repeats the uninterrupted one
    without any saved generator state, and adding a run changes no other.
    """
    return torch.Generator(device).manual_seed(derive_seed(purpose, seed, epoch))

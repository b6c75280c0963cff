"""Generators of random draws, one per purpose, seeded by what the draw is for."""

import hashlib

import torch


def derive_seed(purpose: str, seed: int, epoch: int = 0) -> int:
    """Return a seed in [0, 2**63) that depends on (purpose, seed, epoch) alone."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(
    purpose: str, seed: int, epoch: int = 0, device: str | torch.device = "cpu"
) -> torch.Generator:
    """Return a fresh generator for one purpose in one epoch, such as ("order", 0, 17).

    No draw comes from a shared stream. So a resumed run repeats the uninterrupted one without
    saved generator states, and adding a run changes no other.
    """
    return torch.Generator(device).manual_seed(derive_seed(purpose, seed, epoch))

"""Optimizers: torch's own, built from typed keys."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import nn


@dataclass
class Optimizer:
    """What every option of the group `optimizer` has.

    `lr` is the base learning rate (null: the model's own); the schedule multiplies it, and the
    fit sets the product in every epoch. `weight_decay` applies to all parameters; 1e-4 is the
    original code's (cmd_args.py).
    """

    name: ClassVar[str]

    lr: float | None = None
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise ValueError(
                f"optimizer.lr={self.lr} must be a positive number, or null for the model's own"
            )
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"optimizer.weight_decay={self.weight_decay} must be at least 0")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer over `parameters` with a learning rate of 0, to be set by the caller."""
        raise NotImplementedError


@dataclass
class SGD(Optimizer):
    """SGD with momentum; the original code's optimizer and values (cmd_args.py)."""

    name: ClassVar[str] = "sgd"

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optimizer.momentum={self.momentum} must be in 0 to below 1")
        if self.nesterov and self.momentum == 0:
            raise ValueError("optimizer.nesterov=true needs optimizer.momentum above 0")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return _undecorated(torch.optim.SGD)(
            parameters,
            lr=0.0,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=True,  # one pass over the parameters; the same rule
        )


@dataclass
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015); weight decay is added to the gradient."""

    name: ClassVar[str] = "adam"

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return _undecorated(torch.optim.Adam)(
            parameters, 0.0, weight_decay=self.weight_decay, fused=True
        )


@dataclass
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    name: ClassVar[str] = "adamw"

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return _undecorated(torch.optim.AdamW)(
            parameters, 0.0, weight_decay=self.weight_decay, fused=True
        )


@cache
def _undecorated(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """`kind` whose methods do not import torch._dynamo first.

    They are wrapped for the compilation of optimizers, which no run does; the import takes every
    process 1.4 s, as long as that of torch.
    """
    methods = {
        name: inspect.unwrap(method)
        for name in dir(kind)
        if hasattr(method := getattr(kind, name), "__wrapped__")
    }
    methods["step"] = torch.no_grad()(methods["step"])  # which is the other thing a wrapper did
    return type(kind.__name__, (kind,), methods)

"""Optimizers: torch's own, built from typed keys."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import nn


@dataclass
class Optimizer:
    """What every option of the group `optimizer` has: a class of torch, whose keys are its own.

    `lr` is the base learning rate (null: the model's own); the schedule multiplies it, and the
    fit sets the product in every epoch. `weight_decay` applies to all parameters; 1e-4 is the
    original code's (cmd_args.py).
    """

    name: ClassVar[str]
    torch_class: ClassVar[type[torch.optim.Optimizer]]

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
        keys = {field.name: getattr(self, field.name) for field in fields(self)} | {"lr": 0.0}
        # fused: one pass over the parameters; the same rule
        return _undecorated(self.torch_class)(parameters, **keys, fused=True)


@dataclass
class SGD(Optimizer):
    """SGD with momentum; the original code's optimizer and values (cmd_args.py)."""

    name: ClassVar[str] = "sgd"
    torch_class = torch.optim.SGD

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optimizer.momentum={self.momentum} must be in 0 to below 1")
        if self.nesterov and self.momentum == 0:
            raise ValueError("optimizer.nesterov=true needs optimizer.momentum above 0")


@dataclass
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015); weight decay is added to the gradient."""

    name: ClassVar[str] = "adam"
    torch_class = torch.optim.Adam


@dataclass
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    name: ClassVar[str] = "adamw"
    torch_class = torch.optim.AdamW


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

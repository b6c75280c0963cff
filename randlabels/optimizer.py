"""Optimizers: torch's own, built from typed keys."""

import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import nn

from .schema import Option


@dataclass
class Optimizer(Option):
    """Base class of the group `optimizer`: a torch class, and its keyword arguments as keys.

    lr: base learning rate, which the schedule multiplies in every epoch (null: the model's).
    weight_decay: on all parameters; 1e-4 is the original code's (cmd_args.py).
    """

    torch_class: ClassVar[type[torch.optim.Optimizer]]
    rules = {
        "lr": (
            lambda lr: lr is None or 0 < lr < math.inf,
            "a positive number, or null for the model's",
        ),
        "weight_decay": (lambda decay: 0 <= decay < math.inf, "at least 0"),
    }

    lr: float | None = None
    weight_decay: float = 1e-4

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return an optimizer over `parameters` with learning rate 0, which the fit sets."""
        keys = {field.name: getattr(self, field.name) for field in fields(self)} | {"lr": 0.0}
        if "fused" in inspect.signature(self.torch_class).parameters:
            keys["fused"] = True  # one pass over the parameters; the same rule
        return _without_dynamo(self.torch_class)(parameters, **keys)


@dataclass
class SGD(Optimizer):
    """SGD with momentum; the original code's optimizer and values (cmd_args.py)."""

    name = "sgd"
    torch_class = torch.optim.SGD
    rules = {"momentum": (lambda m: 0 <= m < 1, "at least 0 and below 1")}

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0:
            raise ValueError("optimizer.nesterov=true needs optimizer.momentum above 0")


@dataclass
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015); weight decay is added to the gradient."""

    name = "adam"
    torch_class = torch.optim.Adam


@dataclass
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    name = "adamw"
    torch_class = torch.optim.AdamW


def _without_dynamo(cls: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Undo decorators for compiled optimizers, which import torch._dynamo: 1.4 s per process."""
    methods = {name: getattr(cls, name) for name in dir(cls)}
    plain = {k: inspect.unwrap(v) for k, v in methods.items() if hasattr(v, "__wrapped__")}
    if "step" in plain:
        plain["step"] = torch.no_grad()(plain["step"])  # which one of them did
    return type(cls.__name__, (cls,), plain)

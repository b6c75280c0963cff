"""Tensors that report device cuda:0 and hold CPU numbers: GPU branches run without a GPU.

An operation that mixes them with CPU tensors raises, as on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten


class GpuTensor(torch.Tensor):
    """A tensor that reports cuda:0; its numbers are in `held`."""

    held: torch.Tensor
    device = property(lambda self: torch.device("cuda:0"))

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> GpuTensor:
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device="cpu"
        )
        wrapper.held = held
        return wrapper

    def cpu(self) -> torch.Tensor:
        return self.held

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return execute(function, args, kwargs or {})


class PretendGpu(TorchDispatchMode):
    """Make tensors with device=cuda:0 inside this context `GpuTensor`s."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return execute(function, args, kwargs or {})


def execute(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    on_gpu = [isinstance(tensor, GpuTensor) for tensor in tensors]
    device = kwargs.get("device")
    moves = function in (aten._to_copy.default, aten.copy_.default)
    mixed = any(on_gpu) and any(
        t.dim() > 0 and not gpu for t, gpu in zip(tensors, on_gpu, strict=True)
    )
    if mixed and not moves:
        raise RuntimeError(f"{function} mixes CPU and GPU tensors")
    if device is not None and torch.device(device).type == "cuda":
        kwargs = {**kwargs, "device": torch.device("cpu")}
        return GpuTensor(function(*tree_map(unwrap, args), **tree_map(unwrap, kwargs)))
    result = function(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))
    if function is aten.copy_.default:
        return args[0]
    if not any(on_gpu):
        return result
    return return_and_correct_aliasing(function, args, kwargs, tree_map(wrap, result))


def unwrap(value: Any) -> Any:
    return value.held if isinstance(value, GpuTensor) else value


def wrap(value: Any) -> Any:
    return GpuTensor(value) if isinstance(value, torch.Tensor) else value

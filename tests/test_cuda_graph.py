"""A captured training step computes what the loop computes, with stand-ins for the CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from randlabels import fit
from randlabels.config import parse
from randlabels.experiment import Experiment, assemble
from randlabels.machine import gpu
from randlabels.machine.gpu import WARM_UP_STEPS, Step

from .conftest import CPU, untimed

aten = torch.ops.aten

REFUSED = (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default)
"""Operations that read a number back, or whose shape depends on data."""


class Tape(TorchDispatchMode):
    """Record the calls of a step with their tensors, and replay them without its Python code."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, Any]] = []

    def __torch_dispatch__(
        self, call: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        by_mask = call is aten.index.Tensor and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if call in REFUSED or by_mask:
            raise RuntimeError(f"{call} is not permitted when stream is capturing")
        kwargs = dict(kwargs or {})
        out = call(*args, **kwargs)
        self.calls.append((call, args, kwargs, out))
        return out

    def replay(self) -> None:
        for call, args, kwargs, out in self.calls:
            again = call(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class TapedGraph:
    """A `capture` with the semantics of a CUDA graph: the recording itself has no effects."""

    def __init__(self, state: fit.State) -> None:
        self.state = state
        self.replayed = 0

    def tensors(self) -> list[torch.Tensor]:
        moments = tree_leaves(list(self.state.optimizer.state.values()))
        tensors = [*self.state.model.state_dict().values(), self.state.finite, *moments]
        return [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        before = [tensor.clone() for tensor in self.tensors()]
        drawn = {purpose: rng.get_state() for purpose, rng in self.state.rngs.items()}
        tape = Tape()
        with tape:
            work()
        with torch.no_grad():
            for tensor, value in zip(self.tensors(), before, strict=True):
                tensor.copy_(value)
        for purpose, rng in self.state.rngs.items():
            rng.set_state(drawn[purpose])

        def replay() -> None:
            self.replayed += 1
            with torch.no_grad():
                tape.replay()

        return replay


def small_experiment(**keys: object) -> Experiment:
    small = {
        "dataset": {"name": "digits", "train_size": 36, "test_size": 10},
        "model": {"name": "mlp", "hidden": [16]},
        "optimizer": {"name": "sgd", "lr": 2**-7},
        "corrupt": 0.5,
        "epochs": 2,
        "batch_size": 8,
        "schedule": {"name": "step", "milestones": [1], "gamma": 0.5},
    }
    return assemble(parse({**small, **keys}))


NARROW = {"name": "wrn", "depth": 10}
CASES = [
    *({"model": {"name": name}} for name in ("linear", "alexnet", "resnet18")),
    *({"model": {"name": name}} for name in ("inception", "inception_no_bn")),
    {"model": {**NARROW, "dropout": 0.2}, "augment": {"name": "crop_flip"}},
    *({"augment": {"name": name}} for name in ("random_crop", "crop_flip", "flip_rotate")),
    *({"loss": {"name": name}} for name in ("gce", "phuber_ce")),
    {"loss": {"name": "ce", "label_smoothing": 0.1}},
    *({"optimizer": {"name": name, "lr": 2**-10}} for name in ("adam", "adamw")),
    {"optimizer": {"name": "sgd", "lr": 2**-7, "momentum": 0.0}},
    {"optimizer": {"name": "sgd", "lr": 2**-7, "nesterov": True}},
    *({"preprocess": {"name": name}} for name in ("scale", "none")),
]
"""All but lenet, for which digits are too small, and mse, whose one_hot reads a number back on a
CPU though not on a GPU; test_fake_gpu.py has both."""


@pytest.mark.slow
@pytest.mark.parametrize("keys", CASES, ids=str)
def test_captured_steps_equal_eager_ones_bit_for_bit(
    keys: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over two epochs, with another learning rate in the second and a smaller last batch."""
    eager = fit.start(small_experiment(**keys), CPU)
    expected = list(fit.sgd(small_experiment(**keys), eager, CPU))

    state = fit.start(small_experiment(**keys), CPU)
    graph = TapedGraph(state)
    monkeypatch.setattr(fit, "graphs", lambda *_: graph)
    found = list(fit.sgd(small_experiment(**keys), state, CPU))
    assert state.captured and graph.replayed == 2 * 4 - WARM_UP_STEPS  # four full batches an epoch
    assert untimed(found) == untimed(expected)
    for name, tensor in eager.model.state_dict().items():
        assert torch.equal(tensor, state.model.state_dict()[name])


def call_step(capture: Callable | None, batches: list[list[int]]) -> tuple[Step, list[list[int]]]:
    """A step that has been called with all batches, and those that its body has seen."""
    seen: list[list[int]] = []
    step = Step(lambda batch: seen.append(batch.tolist()), len(batches[0]), capture)
    for batch in batches:
        step(torch.tensor(batch))
    return step, seen


def test_small_batch_is_never_captured_nor_counted() -> None:
    captured = []

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        captured.append(work)
        return work

    batches = [[0, 1], [9], [2, 3], [9], [4, 5]]
    assert call_step(capture, batches)[1] == batches and not captured
    batches += [[6, 7], [9], [8, 9]]
    step, seen = call_step(capture, batches)
    assert seen == batches and len(captured) == 1 and step.captured


def test_step_that_cannot_be_captured_runs_as_it_is_and_logs_the_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch raises a general error where the capture ends, in place of the one that spoiled it."""

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        try:
            raise RuntimeError("operation not permitted when stream is capturing")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    logged: list[str] = []
    monkeypatch.setattr(gpu.log, "warning", lambda text, error: logged.append(text % error))
    batches = [[i] for i in range(6)]
    step, seen = call_step(capture, batches)
    assert seen == batches and step.captured is False
    reason = "operation not permitted when stream is capturing"
    assert logged == [f"Training steps run without a CUDA graph: {reason}"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_out_of_memory_in_a_capture_is_raised(wrapped: bool) -> None:
    def capture(work: Callable[[], None]) -> Callable[[], None]:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except RuntimeError:
            if wrapped:
                raise RuntimeError("operation failed due to a previous error") from None
            raise

    with pytest.raises(torch.OutOfMemoryError):
        call_step(capture, [[i] for i in range(6)])

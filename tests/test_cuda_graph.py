"""A captured training step, with a stand-in for the CUDA graph, computes what the loop computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from randlabels import fit
from randlabels.config import parse
from randlabels.experiment import Experiment, assemble
from randlabels.machine import cuda_graph, gpu
from randlabels.machine.cuda_graph import WARM_UP_STEPS, Step
from randlabels.machine.resources import Resources

CPU = Resources(device="cpu", precision="fp32", threads=1)


def experiment(**keys: object) -> Experiment:
    small = {
        "dataset": {"name": "digits", "train_size": 100, "test_size": 20},
        "model": {"name": "wrn", "depth": 10, "dropout": 0.2},
        "augment": {"name": "crop_flip"},
        "corrupt": 0.5,
        "epochs": 2,
        "batch_size": 16,
        "schedule": {"name": "step", "milestones": [1], "gamma": 0.5},
    }
    return assemble(parse({**small, **keys}))


class Recorder:
    """Stands in for a CUDA graph: replays the work, and refuses where what it works on has been
    replaced since, which a graph would not notice."""

    def __init__(self, state: fit.State) -> None:
        self.state = state
        self.captured = self.replayed = 0

    def places(self) -> list[int]:
        tensors = [*self.state.model.state_dict().values(), self.state.finite]
        for moments in self.state.optimizer.state.values():
            tensors += [each for each in moments.values() if isinstance(each, torch.Tensor)]
        for group in self.state.optimizer.param_groups:
            assert isinstance(group["lr"], torch.Tensor)
            tensors.append(group["lr"])
        return [each.data_ptr() for each in tensors] + [id(g) for g in self.state.rngs.values()]

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        places = self.places()

        def replay() -> None:
            assert self.places() == places
            self.replayed += 1
            work()

        return replay


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_captured_step_finds_everything_in_its_place_in_every_epoch(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"optimizer": {"name": optimizer, "lr": 2**-7}}
    expected = fit.start(experiment(**options), CPU)
    records = list(fit.sgd(experiment(**options), expected, CPU))

    state = fit.start(experiment(**options), CPU)
    recorder = Recorder(state)
    monkeypatch.setattr(fit, "captures", lambda *_: recorder)
    found = list(fit.sgd(experiment(**options), state, CPU))
    assert recorder.captured == 1
    # An epoch has six full batches of 16, and one of 4.
    assert recorder.replayed == 2 * 6 - WARM_UP_STEPS
    for ours, theirs in zip(found, records, strict=True):
        assert ours["lr"] == theirs["lr"]
        assert {k: v for k, v in ours.items() if "second" not in k} == {
            k: v for k, v in theirs.items() if "second" not in k
        }
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(tensor, state.model.state_dict()[name])


def test_a_small_batch_is_never_captured_nor_counted() -> None:
    seen: list[list[int]] = []
    captured: list[int] = []

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        captured.append(len(seen))
        return work

    walk = Step(lambda batch: seen.append(batch.tolist()), 2, capture)
    batches = [[0, 1], [9], [2, 3], [9], [4, 5], [6, 7], [9], [8, 9]]
    for batch in batches:
        walk(torch.tensor(batch))
    assert seen == batches
    assert captured == [5]  # when the fourth full batch came


def test_a_step_that_cannot_be_captured_goes_on_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[int]] = []

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    walk = Step(lambda batch: seen.append(batch.tolist()), 1, capture)
    said: list[str] = []
    monkeypatch.setattr(cuda_graph.log, "warning", lambda text, error: said.append(text % error))
    for i in range(6):
        walk(torch.tensor([i]))
    assert seen == [[i] for i in range(6)]
    assert len(said) == 1 and "not permitted when stream is capturing" in said[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_cuda_graph_trains_as_the_steps_that_it_recorded(
    optimizer: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = Resources(device="cuda:0", precision=precision, threads=1)
    options = {"optimizer": {"name": optimizer, "lr": 2**-7}}
    losses = []
    for captures in (fit.captures, lambda *_: None):
        monkeypatch.setattr(fit, "captures", captures)
        built = experiment(**options)
        with gpu.stream("cuda:0"):
            records = list(fit.sgd(built, fit.start(built, on_gpu), on_gpu))
        losses.append([record["train_loss"] for record in records])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)

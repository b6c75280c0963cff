"""Own models, corruptions and data sets: what they may return, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from randlabels.checks import check, check_model
from randlabels.config import parse
from randlabels.corruption.base import frequencies
from randlabels.experiment import build_model, corrupt_labels, load, source_of

from .own import DIGITS, Write, own_corruption, own_network


def test_layers_with_torchs_initialisation_follow_the_runs_seed(write: Write) -> None:
    """... and torch's global generator is left as it was."""
    config = own_network(write, "nn.Flatten(), nn.Linear(64, classes)")
    data = load(config.dataset)

    def weights(seed: int) -> torch.Tensor:
        config.seed = seed
        model = build_model(config, data)
        assert isinstance(model, nn.Sequential)
        return next(model.parameters()).detach()

    first = weights(0)
    torch.manual_seed(5)
    assert torch.equal(weights(0), first) and not torch.equal(weights(1), first)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ("nn.Flatten(), nn.Linear(64, 5)", r"returns \(2, 5\) for 2 images of shape \(1, 8, 8\); "),
        ("nn.Linear(8, classes)", r"returns \(2, 1, 8, 10\) for 2 images"),
        ("nn.Flatten(), nn.Dropout(), nn.Linear(64, 10)", "has torch's dropout, which a resumed"),
        ("nn.Flatten(), nn.LSTM(64, 10)", r"returns a tuple for 2 images .* return \(2, 10\), a "),
    ],
)
def test_network_that_cannot_be_trained_is_refused_before_its_run(
    write: Write, layers: str, sentence: str
) -> None:
    config = own_network(write, layers)
    with pytest.raises(ValueError, match=f"^model=own {sentence}"):
        check_model(config, load(config.dataset))


def test_network_with_our_dropout_is_accepted(write: Write) -> None:
    config = own_network(write, "nn.Flatten(), Dropout(0.5), nn.Linear(64, 10)")
    check_model(config, load(config.dataset))


def test_build_that_returns_no_module_is_refused(write: Write) -> None:
    config = own_network(write, "nn.Flatten()", returned="None and ")
    with pytest.raises(ValueError, match="model=own builds None; build must return an nn.Module"):
        check([config])


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ("source.labels / 2", r"returned float64 of shape \(1442,\) for the train split; relabel "),
        ("source.labels + 1", "returned integers from 1 to 10 for the train split; relabel must "),
        ("source.labels - (source.split == 'test')", "returned integers from -1 to 8 for the test"),
        ("None", r"returned object of shape \(\) for the train split; relabel must return 1442 "),
    ],
)
def test_corruption_that_returns_no_labels_is_refused_before_any_run(
    write: Write, returned: str, sentence: str
) -> None:
    config = own_corruption(write, f"return {returned}")
    with pytest.raises(ValueError, match=f"^corruption=own {sentence}"):
        check([config])


def test_labels_may_be_a_list_or_a_tensor(write: Write) -> None:
    config = own_corruption(
        write, "return torch.tensor(source.labels) if source.split == 'test' else [3] * 1442"
    )
    data = load(config.dataset)
    assert corrupt_labels(config, data, "train").tolist() == [3] * 1442
    assert torch.equal(corrupt_labels(config, data, "test"), data.test.labels)


def test_labels_are_drawn_once_by_a_process(write: Write) -> None:
    config = own_corruption(write, "print('drawn', source.split); return source.labels")
    data = load(config.dataset)
    first = corrupt_labels(config, data, "train")
    config.seed = 1
    check([config])
    assert corrupt_labels(config, data, "train") is first


def test_mixture_that_draws_with_the_given_generator_is_unbiased(write: Write) -> None:
    write(
        """
        @dataclass
        class Own(Mixture):
            name: ClassVar[str] = "own"

            def targets(self, source, rng):
                return rng.randint(source.classes, size=len(source.labels))

            def target_matrix(self, source):
                return np.full((source.classes, source.classes), 1 / source.classes)
        """,
    )
    config = parse({**DIGITS, "corruption": {"name": "own"}, "corrupt": 0.4})
    data = load(config.dataset)
    source = source_of(config, data, "train")
    labels = corrupt_labels(config, data, "train").numpy()
    changed = labels[labels != source.labels]
    shares = np.bincount(changed, minlength=10) / len(changed)
    assert np.abs(shares - 0.1).max() < 4.5 * np.sqrt(0.09 / len(changed))
    drawn = frequencies(source.labels, labels, 10)
    within = 4.5 * np.sqrt(0.25 / 140)
    assert np.abs(drawn - config.corruption.transition(source, 0.4)).max() < within


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        ("x[:, 0]", "y", r"images must be a tensor .*; these are torch.uint8 \(6, 5, 5\)"),
        ("x / 255", "y", r"images must be a tensor .*; these are torch.float32 \(6, 3, 5, 5\)"),
        ("x.numpy()", "y", r"images must be a tensor .*; these are uint8 \(6, 3, 5, 5\)"),
        ("x.permute(0, 2, 3, 1)", "y", r"images \(6, 5, 5, 3\) seem to be \(N, H, W, C\); give "),
        ("x", "y.int()", r"labels must be a tensor \(6,\) of torch.int64, .* torch.int32 \(6,\)"),
        ("x", "y[:5]", r"labels must be a tensor \(6,\) .* torch.int64 \(5,\)"),
        ("x", "y[:, None]", r"labels must be a tensor \(6,\) .* torch.int64 \(6, 1\)"),
        ("x", "y + 1", "labels must be 0 to 2 for 3 classes; these are 1 to 3"),
        ("x", "y - 1", "labels must be 0 to 2 for 3 classes; these are -1 to 1"),
    ],
)
def test_data_of_another_form_are_refused_with_their_form(
    write: Write, images: str, labels: str, sentence: str
) -> None:
    write(
        f"""
        @dataclass
        class Own(Dataset):
            name: ClassVar[str] = "own"

            def load(self):
                x, y = torch.zeros(6, 3, 5, 5, dtype=torch.uint8), torch.arange(6) % 3
                good = Split(x, y)
                return Data(good, Split({images}, {labels}), 3)
        """,
    )
    with pytest.raises(ValueError, match=f"^{sentence}"):
        load(parse({"dataset": {"name": "own"}}).dataset)

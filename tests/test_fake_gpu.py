"""Training steps on tensors that say they are on a GPU and have no values.

Operations on tensors of different devices, and numbers read back from the GPU, raise.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from randlabels.config import parse
from randlabels.dataset import Data
from randlabels.experiment import assemble
from randlabels.machine.resources import Resources
from randlabels.network import Classifier, memory_format

MLP = {"model": {"name": "mlp"}}
CASES = [
    *({"model": {"name": name}} for name in ("linear", "lenet", "alexnet", "resnet18")),
    *({"model": {"name": name}} for name in ("inception", "inception_no_bn")),
    {"model": {"name": "wrn", "depth": 10, "dropout": 0.2}},
    *({**MLP, "augment": {"name": name}} for name in ("random_crop", "crop_flip", "flip_rotate")),
    *({**MLP, "loss": {"name": name}} for name in ("mse", "gce", "phuber_ce")),
    {**MLP, "loss": {"name": "mse", "softmax": True}},
    *({**MLP, "preprocess": {"name": name}} for name in ("paper", "scale", "none")),
]


@pytest.fixture
def autocasting(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch autocasts for a GPU that is not here."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    autocast = "torch.amp.autocast_mode.torch.cuda.amp.common.amp_definitely_not_available"
    monkeypatch.setattr(autocast, lambda: False)


def move_to_gpu(model: nn.Module) -> None:
    """Replace parameters and buffers by fake ones on the GPU."""
    for layer in model.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            setattr(layer, name, nn.Parameter(torch.empty_like(parameter, device="cuda:0")))
        for name, buffer in layer.named_buffers(recurse=False):
            setattr(layer, name, torch.empty_like(buffer, device="cuda:0"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("keys", CASES, ids=str)
def test_step_stays_on_its_device_and_never_waits_for_it(
    keys: dict, precision: str, coloured: Data, autocasting: None
) -> None:
    built = assemble(parse({"dataset": {"name": "cifar10"}, **keys}))
    config, on_gpu = built.config, Resources("cuda:0", precision, 1)
    assert built.model is not None
    network = built.model.to(memory_format=memory_format(built.model)).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        move_to_gpu(network)
        classifier = Classifier(built, network, on_gpu)
        train = built.train.to("cuda:0")
        images = classifier.pixels(train.images[torch.zeros(8, dtype=int, device="cuda:0")])
        logits = classifier(config.augment(images, classifier.size, None))
        loss = config.loss(logits, train.labels[:8]).mean()
    assert logits.dtype == torch.float32 and loss.device == torch.device("cuda:0")

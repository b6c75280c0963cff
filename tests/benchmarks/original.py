"""Run the original code on a CPU with a current torch, and time each epoch.

    python -m tests.benchmarks.original CHECKOUT wide-resnet|mlp IMAGES EPOCHS CORRUPT

CHECKOUT is a checkout of pluskid/fitting-random-labels. Three things are patched: `.cuda()` does
nothing, `Variable` (removed from torch) returns its tensor, and the data set is cut to the images
that `dataset.train_size` and `test_size` keep. The loop, the loaders and the models are unchanged.
Prints a JSON line per epoch with the seconds and the accuracies that the original logs.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from randlabels.config import parse


def patch(train: Any, data: Any, images: int) -> None:
    """Make the original modules `train` and `cifar10_data` run on a CPU and on fewer images."""
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    nn.Module.cuda = lambda self, *args, **kwargs: self
    torch.autograd.Variable = lambda x, volatile=False: x
    train.validate_epoch = torch.no_grad()(train.validate_epoch)
    whole = data.CIFAR10RandomLabels.__init__
    cut = parse({"dataset": {"train_size": images, "test_size": images // 5}}).dataset

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        whole(self, *args, **{**kwargs, "download": False})
        true = type(self).__mro__[1](root=kwargs["root"], train=self.train).targets
        keep = cut.indices(torch.tensor(true), "train" if self.train else "test")
        self.data = self.data[keep.numpy()]
        self.targets = np.array(self.targets)[keep.numpy()].tolist()

    data.CIFAR10RandomLabels.__init__ = init


def main() -> None:
    checkout, arch, images, epochs, corrupt = sys.argv[1:]
    sys.path.insert(0, checkout)
    sys.argv = ["train.py", "--arch", arch, "--label-corrupt-prob", corrupt]
    sys.argv += ["--learning-rate", "0.1" if arch == "wide-resnet" else "0.01"]
    train, data = importlib.import_module("train"), importlib.import_module("cifar10_data")
    patch(train, data, int(images))
    source = Path(os.environ.get("RANDLABELS_DATA", "data")).absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("data").symlink_to(source)  # the original knows ./data only
        args = train.cmd_args.parse_args()
        train_loader, test_loader = train.get_data_loaders(args)
        model = train.get_model(args)
        for epoch in range(int(epochs)):
            reported: dict[str, float] = {}

            def note(form: str, epoch: int, *values: float, into: dict = reported) -> None:
                into.update(zip(("train_acc", "test_acc", "train_loss"), values, strict=False))

            train.logging.info = note
            started = time.perf_counter()
            train.train_model(args, model, train_loader, test_loader, epoch, epoch + 1)
            print(json.dumps({"seconds": time.perf_counter() - started, **reported}), flush=True)


if __name__ == "__main__":
    main()

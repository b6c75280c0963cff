"""Images per second in training and evaluation, compared with a plain DataLoader loop.

    python -m tests.benchmarks.throughput [--images 5000] [--repeats 3] [--threads N]

Both loops train and evaluate the same networks for one epoch, in turns, on random pixels in the
shape of CIFAR-10 with five training images for each test image. The plain loop is that of the
original code (train.py): a Dataset that converts one image at a time, a DataLoader with one worker,
and evaluation in batches of 128.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import VisionDataset

from randlabels import fit
from randlabels.config import parse
from randlabels.console import print_table
from randlabels.dataset import Data, Split
from randlabels.experiment import Experiment, build_model
from randlabels.machine.resources import resolve

MEAN, DEVIATION = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


class PlainDataset(VisionDataset):
    """Return one image at a time, as torchvision's CIFAR10 does."""

    def __init__(self, split: Split) -> None:
        self.images = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = split.labels.tolist()
        normalize = transforms.Normalize(
            [m / 255 for m in MEAN], [deviation / 255 for deviation in DEVIATION]
        )
        self.transform = transforms.Compose(
            [transforms.ToPILImage(), transforms.ToTensor(), normalize]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def plain_epoch(
    model: nn.Module, train_part: Split, test_part: Split, lr: float
) -> tuple[float, float]:
    """Return the seconds of training and of both evaluations with a plain loop."""
    train = DataLoader(PlainDataset(train_part), 128, shuffle=True, num_workers=1)
    test = DataLoader(PlainDataset(test_part), 128, num_workers=1)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    started = time.perf_counter()
    model.train()
    for images, labels in train:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
    trained = time.perf_counter()
    model.eval()
    with torch.no_grad():
        for loader in (test, train):
            for images, labels in loader:
                F.cross_entropy(model(images), labels).item()
    return trained - started, time.perf_counter() - trained


def our_epoch(model_name: str, data: Data) -> tuple[float, float]:
    """Return the seconds of training and of both evaluations, from the record of an epoch."""
    config = parse({"model": {"name": model_name}, "epochs": 1})
    train = Split(data.train.images, data.train.labels, data.train.labels)
    test = Split(data.test.images, data.test.labels, data.test.labels)
    model = build_model(config, data)
    built = Experiment(config, train, test, data.moments, model, {}, "")
    resources = resolve(config, None)
    (record,) = fit.sgd(built, fit.start(built, resources), resources)
    seconds, speed = record["seconds"], record["images_per_second"]
    assert seconds is not None and speed is not None
    training = len(train.labels) / speed
    return training, seconds - training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5_000, help="training images")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = torch.Generator().manual_seed(0)

    def split(size: int) -> Split:
        images = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=rng)
        return Split(images, torch.randint(0, 10, (size,), generator=rng))

    data = Data(
        split(options.images), split(options.images // 5), 10, (list(MEAN), list(DEVIATION))
    )
    evaluated = options.images + options.images // 5
    rows = []
    for name, lr in (("mlp", 0.01), ("wrn", 0.1)):
        plain, ours = [], []
        for _ in range(options.repeats):
            model = build_model(parse({"model": {"name": name}}), data)
            plain.append(plain_epoch(model, data.train, data.test, lr))
            ours.append(our_epoch(name, data))
        seconds = [[median(arm[i] for arm in arms) for i in (0, 1)] for arms in (plain, ours)]
        for arm, (training, evaluation) in zip(("plain loop", "randlabels"), seconds, strict=True):
            rows.append(
                [
                    f"{name}, {arm}",
                    f"{options.images / training:,.0f}",
                    f"{evaluated / evaluation:,.0f}",
                    f"{training + evaluation:.2f}",
                    f"{sum(seconds[0]) / (training + evaluation):.2f}",
                ]
            )
    columns = ["arm", "train images/s", "evaluated images/s", "seconds per epoch", "times faster"]
    print_table(
        f"{options.images:,} + {options.images // 5:,} images, {options.threads} threads, "
        f"randlabels with precision=auto, median of {options.repeats}",
        columns,
        rows,
    )


if __name__ == "__main__":
    main()

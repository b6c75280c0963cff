"""The embedded data set: 1,797 handwritten digits, 8x8, for demos and tests without a download."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from . import Data, Dataset, Split


@dataclass
class Digits(Dataset):
    """scikit-learn's `load_digits`: 1,442 training and 355 test images, 1x8x8, 10 classes.

    Within each class, in the data set's order, every fifth image is a test image.

    Source: Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository (CC BY 4.0). Pixels 0..16 are stored as round(x·255/16).
    """

    name = "digits"

    def load(self) -> Data:
        with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
            pixels, labels = file["pixels"], file["labels"]
        images = np.rint(pixels * (255 / 16)).astype(np.uint8)[:, None]
        test = np.zeros(len(labels), dtype=bool)
        for label in range(10):
            test[np.flatnonzero(labels == label)[4::5]] = True
        train, tested = (
            Split(torch.from_numpy(images[mask]), torch.from_numpy(labels[mask].astype(np.int64)))
            for mask in (~test, test)
        )
        return Data(train, tested, classes=10)

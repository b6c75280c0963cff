"""The published image sets, read, downloaded and checked (md5) by torchvision."""

import gzip
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from . import Data, Dataset, Split


@dataclass
class _Vision(Dataset):
    """Base class of the data sets; torchvision has a class of the same name for each.

    arguments: of that class, for the training and for the test images.
    """

    arguments: ClassVar[tuple[dict[str, Any], ...]] = ({"train": True}, {"train": False})
    published_moments: ClassVar[tuple[list[float], list[float]] | None] = None

    def load(self) -> Data:
        train, test = map(self._split, self.arguments)
        return Data(train, test, int(train.labels.max()) + 1, self.published_moments)

    def _split(self, arguments: dict[str, Any]) -> Split:
        try:
            source = self._published()(str(self.folder), download=self.download, **arguments)
        except (OSError, RuntimeError, EOFError, ValueError) as error:
            raise ValueError(self._explain(error)) from error
        images = stored_images(source)
        assert images is not None
        labels = torch.as_tensor(source.labels if hasattr(source, "labels") else source.targets)
        return Split(torch.from_numpy(np.ascontiguousarray(images)), labels.long())

    def _published(self) -> Any:
        from torchvision import datasets

        names = [cls.__name__ for cls in type(self).__mro__]
        return next(getattr(datasets, name) for name in names if hasattr(datasets, name))

    def _files(self) -> list[str]:
        """Return the paths, below the root, of the files that torchvision reads."""
        cls = self._published()
        names = [name for name, _ in [*cls.train_list, *cls.test_list]]
        return [f"{cls.base_folder}/{name}" for name in (*names, cls.meta["filename"])]

    def _explain(self, error: Exception) -> str:
        where, files = f"{self.name} in {self.folder}", ", ".join(self._files())
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        if self.download:
            return (
                f"{where} could not be downloaded or read ({reason}); place {files} there, or set "
                "RANDLABELS_DATA or dataset.root to the folder that has them"
            )
        return (
            f"{where} is missing or fails its checksum ({reason}); set dataset.download=true, or "
            f"RANDLABELS_DATA or dataset.root to the folder that has {files}"
        )


@dataclass
class CIFAR10(_Vision):
    """50,000 + 10,000 colour images, 32x32, 10 classes (Krizhevsky 2009).

    The moments are those of the original code (train.py).
    """

    name = "cifar10"
    published_moments = ([125.3, 123.0, 113.9], [63.0, 62.1, 66.7])


@dataclass
class CIFAR100(_Vision):
    """50,000 + 10,000 colour images, 32x32, 100 classes (Krizhevsky 2009)."""

    name = "cifar100"


@dataclass
class MNIST(_Vision):
    """60,000 + 10,000 grey images, 28x28, 10 digits (LeCun, Cortes, Burges)."""

    name = "mnist"

    def _split(self, arguments: dict[str, Any]) -> Split:
        """Check the files too: torchvision checks their md5 only while downloading."""
        from torchvision.datasets.utils import check_integrity

        split = super()._split(arguments)
        for file, (_, md5) in zip(self._files(), self._published().resources, strict=True):
            archive = self.folder / file
            unpacked = archive.with_suffix("").read_bytes()
            whole = check_integrity(archive, md5)
            if not whole or gzip.decompress(archive.read_bytes()) != unpacked:
                wrong = f"{archive.name} or its unpacked copy is missing or not the published file"
                raise ValueError(self._explain(OSError(wrong)))
        return split

    def _files(self) -> list[str]:
        cls = self._published()
        return [f"{cls.__name__}/raw/{name}" for name, _ in cls.resources]


@dataclass
class FashionMNIST(MNIST):
    """60,000 + 10,000 grey images, 28x28, 10 kinds of clothing (Xiao et al. 2017)."""

    name = "fashion_mnist"


@dataclass
class SVHN(_Vision):
    """73,257 + 26,032 colour images, 32x32, 10 digits (Netzer et al. 2011)."""

    name = "svhn"
    arguments = ({"split": "train"}, {"split": "test"})

    def _files(self) -> list[str]:
        return [self._published().split_list[name][1] for name in ("train", "test")]


def stored_images(source: Any) -> np.ndarray | None:
    """Return the images of a torchvision data set, (N, C, H, W) uint8; None if it holds none."""
    stored = np.asarray(getattr(source, "data", None))
    if stored.dtype != np.uint8 or stored.ndim not in (3, 4):
        return None
    if stored.ndim == 3:  # grey
        return stored[:, None]
    return stored.transpose(0, 3, 1, 2) if stored.shape[3] in (1, 3) else stored

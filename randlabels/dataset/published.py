"""The published image sets, read, downloaded and checked (md5) by torchvision."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from . import Data, Dataset, Split


@dataclass
class _Vision(Dataset):
    """Base class of the data sets; torchvision has a class of the same name for each."""

    published_moments: ClassVar[tuple[list[float], list[float]] | None] = None

    def load(self) -> Data:
        train, test = self._split(train=True), self._split(train=False)
        classes = int(train.labels.max()) + 1
        return Data(train, test, classes, self.published_moments)

    def _split(self, *, train: bool) -> Split:
        try:
            source = self._published()(
                str(self.folder), download=self.download, **self._arguments(train)
            )
        except (OSError, RuntimeError, EOFError, ValueError) as error:
            raise ValueError(self._explain(error)) from error
        return self._tensors(source)

    def _published(self) -> Any:
        from torchvision import datasets

        names = [cls.__name__ for cls in type(self).__mro__]
        return next(getattr(datasets, name) for name in names if hasattr(datasets, name))

    def _arguments(self, train: bool) -> dict[str, Any]:
        return {"train": train}

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

    def _tensors(self, source: Any) -> Split:
        images = torch.as_tensor(np.asarray(source.data))
        # N×H×W for grey images, N×H×W×C for colour ones.
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        return Split(images, torch.as_tensor(source.targets, dtype=torch.int64))


@dataclass
class CIFAR10(_Vision):
    """50,000 + 10,000 colour images, 32x32, 10 classes (Krizhevsky 2009).

    The moments are those of the original code (train.py).
    """

    name: ClassVar[str] = "cifar10"
    published_moments = ([125.3, 123.0, 113.9], [63.0, 62.1, 66.7])


@dataclass
class CIFAR100(_Vision):
    """50,000 + 10,000 colour images, 32x32, 100 classes (Krizhevsky 2009)."""

    name: ClassVar[str] = "cifar100"


@dataclass
class MNIST(_Vision):
    """60,000 + 10,000 grey images, 28x28, 10 digits (LeCun, Cortes, Burges)."""

    name: ClassVar[str] = "mnist"

    def _split(self, *, train: bool) -> Split:
        split = super()._split(train=train)
        self._check_archives()
        return split

    def _files(self) -> list[str]:
        cls = self._published()
        return [f"{cls.__name__}/raw/{name}" for name, _ in cls.resources]

    def _check_archives(self) -> None:
        """Raise ValueError for damaged files: torchvision checks md5 only while downloading."""
        from torchvision.datasets.utils import check_integrity

        cls = self._published()
        raw = self.folder / cls.__name__ / "raw"
        for filename, md5 in cls.resources:
            archive, unpacked = raw / filename, (raw / filename).with_suffix("")
            published = check_integrity(str(archive), md5)
            if not published or gzip.decompress(archive.read_bytes()) != unpacked.read_bytes():
                wrong = f"{filename} or its unpacked copy is missing or not the published file"
                raise ValueError(self._explain(OSError(wrong)))


@dataclass
class FashionMNIST(MNIST):
    """60,000 + 10,000 grey images, 28x28, 10 kinds of clothing (Xiao et al. 2017)."""

    name: ClassVar[str] = "fashion_mnist"


@dataclass
class SVHN(_Vision):
    """73,257 + 26,032 colour images, 32x32, 10 digits (Netzer et al. 2011)."""

    name: ClassVar[str] = "svhn"

    def _arguments(self, train: bool) -> dict[str, Any]:
        return {"split": "train" if train else "test"}

    def _files(self) -> list[str]:
        return [self._published().split_list[name][1] for name in ("train", "test")]

    def _tensors(self, source: Any) -> Split:
        images = torch.as_tensor(np.ascontiguousarray(source.data))  # already N×C×H×W
        return Split(images, torch.as_tensor(source.labels, dtype=torch.int64))

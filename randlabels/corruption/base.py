"""Code that corruptions share: masks, random streams, and mixtures of labels."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..randomness import derive_seed
from . import Corruption, Source


@dataclass
class Mixture(Corruption):
    """Each label, independently with probability `corrupt`, becomes its target.

    Targets do not depend on `corrupt`. Unless a subclass draws otherwise, the levels are nested: a
    label corrupted at one level has the same class at every higher level, and for one `seed`, all
    mixtures corrupt the same images as the original code. Transition matrix: T = (1 - corrupt)·I
    + corrupt·Q, where Q[i, j] is the probability that the target of a label i is j.
    """

    @abstractmethod
    def targets(self, source: Source, rng: np.random.RandomState) -> np.ndarray:
        """Return (N,) int64 in [0, K): what each label becomes if corrupted, drawn from `rng`."""

    @abstractmethod
    def target_matrix(self, source: Source) -> np.ndarray:
        """Return Q, (K, K) float64, rows sum to 1."""

    def mask(self, size: int, corrupt: float) -> np.ndarray:
        """Draw (size,) bool: the labels that become their targets."""
        return draw_mask(size, corrupt, np.random.RandomState(self.seed))

    def relabel(self, source: Source, corrupt: float) -> np.ndarray:
        if corrupt == 0:
            return source.labels.copy()
        mask = self.mask(len(source.labels), corrupt)
        targets = np.asarray(self.targets(source, stream(self.name, self.seed)))
        return np.where(mask, targets, source.labels)

    def transition(self, source: Source, corrupt: float) -> np.ndarray:
        if corrupt == 0:
            return np.eye(source.classes)
        return (1 - corrupt) * np.eye(source.classes) + corrupt * self.target_matrix(source)


@dataclass
class FileMixture(Mixture):
    """A mixture whose targets are read from a file.

    path: the file; not part of a run's identity.
    sha256: checksum of its content, which is part of a run's identity (null: computed).
    """

    path: str | None = None
    sha256: str | None = None

    def pin_files(self) -> None:
        if self.path:
            self.sha256 = hashlib.sha256(self.read()).hexdigest()

    def read(self) -> bytes:
        """Return the content of the file; ValueError if it is missing, or not that of `sha256`."""
        if not self.path:
            raise ValueError(
                f"corruption.path=null must be the file of corruption={self.name}; "
                "set corruption.path to it"
            )
        try:
            content = Path(self.path).expanduser().read_bytes()
        except OSError as error:
            raise ValueError(
                f"corruption.path={self.path} cannot be read ({error.strerror}); "
                "set it to an existing file"
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if self.sha256 not in (None, found):
            raise ValueError(
                f"corruption.path={self.path} must have the content of corruption.sha256="
                f"{self.sha256}, and has {found}; restore the file, or launch again without "
                "corruption.sha256"
            )
        return content


def draw_mask(size: int, corrupt: float, rng: np.random.RandomState) -> np.ndarray:
    """Draw (size,) bool, each true with probability `corrupt` in 0..1.

    For one seed, the mask of a level contains the masks of all lower levels.

    Source: the mask of the original code (pluskid/fitting-random-labels, cifar10_data.py).
    """
    return rng.rand(size) <= corrupt if corrupt > 0 else np.zeros(size, dtype=bool)


def stream(purpose: str, seed: int) -> np.random.RandomState:
    """Return a fresh generator for one purpose.

    NumPy guarantees for RandomState alone that a seed gives the same numbers in every version.
    """
    return next(streams(purpose, seed, [0]))


def streams(purpose: str, seed: int, indices: Iterable[int]) -> Iterator[np.random.RandomState]:
    """Yield a fresh generator for each image, which depends on its index alone.

    It is one object, seeded again: creating one takes longer than permuting an image.
    """
    rng = np.random.RandomState(0)
    for index in indices:
        derived = derive_seed(f"corruption/{purpose}", seed, index)
        rng.seed([derived % 2**32, derived // 2**32])
        yield rng


def frequencies(true: np.ndarray, given: np.ndarray, classes: int) -> np.ndarray:
    """Return (K, K) float64: the share of label j among the images whose true label is i.

    A class without images has the row of the identity.
    """
    counts = np.zeros((classes, classes))
    np.add.at(counts, (true, given), 1)
    empty = counts.sum(1) == 0
    counts[empty, empty] = 1
    return counts / counts.sum(1, keepdims=True)


def describe_misfit(labels: np.ndarray, source: Source) -> str:
    """Return why an array cannot be the corrupted labels of a split; "" if it can."""
    if labels.shape != source.labels.shape or not np.issubdtype(labels.dtype, np.integer):
        return f"{labels.dtype} of shape {labels.shape}"
    low, high = (labels.min(), labels.max()) if len(labels) else (0, 0)
    return "" if 0 <= low <= high < source.classes else f"integers from {low} to {high}"

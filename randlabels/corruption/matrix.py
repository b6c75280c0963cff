"""Label noise by a transition matrix from a file."""

from dataclasses import dataclass

import numpy as np

from . import Source
from .base import FileMixture


@dataclass
class Matrix(FileMixture):
    """Each label i, independently with probability `corrupt`, becomes j with probability T[i, j].

    path: T as a CSV file without a header: K lines of K probabilities that sum to 1, a line for
        each true class.
    """

    name = "matrix"

    def targets(self, source: Source, rng: np.random.RandomState) -> np.ndarray:
        draws = rng.rand(len(source.labels))
        targets = source.labels.copy()
        for i, row in enumerate(self.target_matrix(source).cumsum(1)):
            of_class = source.labels == i
            targets[of_class] = np.searchsorted(row / row[-1], draws[of_class], side="right")
        return targets

    def target_matrix(self, source: Source) -> np.ndarray:
        key, classes = f"corruption.path={self.path}", source.classes
        lines = self.read().decode("utf-8-sig", errors="replace").splitlines()
        try:
            rows = [list(map(float, line.split(","))) for line in lines if line.strip()]
        except ValueError as error:
            raise ValueError(f"{key} must have only numbers and commas; {error}") from error
        if [len(row) for row in rows] != [classes] * classes:
            raise ValueError(
                f"{key} must have {classes} lines of {classes} numbers, as {source.dataset} has "
                f"{classes} classes, and has {len(rows)} lines of "
                f"{', '.join(sorted({str(len(row)) for row in rows}))}"
            )
        for i, row in enumerate(rows):
            if not (min(row) >= 0 and abs(sum(row) - 1) <= 1e-6):
                raise ValueError(
                    f"{key} must have lines of probabilities that sum to 1, and line {i + 1} has a "
                    f"minimum of {min(row):g} and a sum of {sum(row):.7g}; divide it by its sum"
                )
        return np.array(rows)

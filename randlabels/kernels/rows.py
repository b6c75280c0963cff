"""Rows of features, and their inner products in float64."""

from __future__ import annotations

import torch

from .products import product

PART = 1000
"""Rows that are converted at a time, in the cache."""


class Rows:
    """(n, d) float32 features.

    Rows of 8-bit pixels, x/255 with whole x from 0 to 255, are recognised: their inner products
    are whole numbers over 255² and come from an 8-bit integer product, exactly, at some fifteen
    times the speed of a float64 product (CPU).

    squares: (n,) float64, the squared norms.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values
        self._codes = _codes(values)
        if self._codes is None:
            squares = [part.double().square().sum(1) for part in values.split(PART)]
        else:
            self._sums = self._codes.sum(1, dtype=torch.int64).double()
            squares = [
                ((part.double() + 128) / 255).square().sum(1) for part in self._codes.split(PART)
            ]
        self.squares = torch.cat(squares)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def exact(self) -> bool:
        """The rows are 8-bit pixels over 255."""
        return self._codes is not None

    def inner(self, rows: slice, other: Rows, columns: slice) -> torch.Tensor:
        """(m, k) float64: ⟨self_i, other_j⟩ for i in `rows`, j in `columns`."""
        if self._codes is None or other._codes is None:
            return product(self.values[rows].double(), other.values[columns].double())
        products = torch._int_mm(self._codes[rows], other._codes[columns].T).double()
        # ⟨a + 128, b + 128⟩ = ⟨a, b⟩ + 128·(Σa + Σb) + 128²·d
        shift = 128 * self._sums[rows] + 128**2 * self._codes.shape[1]
        products += shift[:, None]
        products += 128 * other._sums[columns]
        return products.div_(255**2)


def _codes(values: torch.Tensor) -> torch.Tensor | None:
    """x - 128 (n, d) int8, where the values (n, d) are x/255 with whole x from 0 to 255."""
    if values.device.type != "cpu" or not hasattr(torch, "_int_mm"):
        return None
    codes = torch.empty(values.shape, dtype=torch.int8)
    for part, target in zip(values.split(PART), codes.split(PART), strict=True):
        whole = (part * 255).round_()
        if not bool(((whole / 255 == part) & (whole >= 0) & (whole <= 255)).all()):
            return None
        target.copy_(whole - 128)
    return codes

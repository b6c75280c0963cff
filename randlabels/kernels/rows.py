"""Rows of features, and their inner products in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from .products import integer_product, product


class Rows:
    """The features of n images, one row each.

    Rows of 8-bit pixels, x/255 with whole x from 0 to 255, are recognised. Their inner products
    are whole numbers over 255² and are computed exactly, at the speed of float32. Inner products
    of other rows are computed in float64.

    values: (n, d), float32, or int8 codes x - 128 of 8-bit pixels.
    squares: (n,) float64, the squared norms.
    """

    def __init__(self, features: Tensor) -> None:
        """Take (n, d) float32 features."""
        codes = _encode(features)
        self.values = features if codes is None else codes
        offset, unit = (0, 1) if codes is None else (128, 255**2)
        self.squares = (self.values.double() + offset).square().sum(1) / unit

    def __len__(self) -> int:
        return len(self.values)

    @property
    def exact(self) -> bool:
        """Whether the rows are 8-bit pixels."""
        return self.values.dtype is torch.int8

    def inner(self, rows: slice, other: Rows, columns: slice) -> Tensor:
        """Return ⟨self_i, other_j⟩ (m, k) float64 for i in `rows` and j in `columns`."""
        a, b = self.values[rows], other.values[columns]
        if self.exact and other.exact:
            # ⟨a + 128, b + 128⟩ = ⟨a, b⟩ + 128·(Σa + Σb) + 128²·d
            inner = integer_product(a, b)
            inner += 128 * a.sum(1, dtype=torch.int64)[:, None] + 128**2 * a.shape[1]
            inner += 128 * b.sum(1, dtype=torch.int64)
            return inner.div_(255**2)
        inner = product(_decode(a), _decode(b))
        if other is self and rows.start == columns.start:
            # No rounding error here: the distance of an image to itself is 0.
            diagonal = inner.diagonal()
            diagonal.copy_(self.squares[rows.start : rows.start + len(diagonal)])
        return inner


def _encode(features: Tensor) -> Tensor | None:
    """Return x - 128 (n, d) int8 if all features (n, d) are x/255 with whole x in 0..255."""
    whole = (features * 255).round_()
    if not bool(((whole / 255 == features) & (whole >= 0) & (whole <= 255)).all()):
        return None
    return (whole - 128).to(torch.int8)


def _decode(values: Tensor) -> Tensor:
    return (values.double() + 128) / 255 if values.dtype is torch.int8 else values.double()

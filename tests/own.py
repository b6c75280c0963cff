"""Files of own options, written by tests, and the configs that use them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from randlabels import registry
from randlabels.config import Config, parse

HEAD = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
import torch
from torch import nn
from randlabels.corruption import Corruption
from randlabels.corruption.asymmetric import PairFlip
from randlabels.corruption.base import Mixture
from randlabels.dataset import Data, Dataset, Split
from randlabels.dataset.digits import Digits
from randlabels.model import Model
from randlabels.model.dropout import Dropout
"""
DIGITS = {"dataset": {"name": "digits"}}

Write = Callable[[str], None]


@pytest.fixture
def forgotten_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the process forget at the test's end which files of own parts it imported."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    for known in ("_imported", "_code_sha256"):
        monkeypatch.setattr(registry, known, {})
    yield
    registry.options.cache_clear()


@pytest.fixture
def write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten_parts: None
) -> Iterator[Write]:
    """Write a file `own.py` and name it by RANDLABELS_IMPORTS until the test ends.

    It is imported as by a new process.
    """
    monkeypatch.setenv("RANDLABELS_IMPORTS", str(tmp_path / "own.py"))

    def save(code: str) -> None:
        registry._imported.clear()
        registry._code_sha256.clear()
        sys.modules.pop("own", None)
        (tmp_path / "own.py").write_text(HEAD + dedent(code))

    yield save
    sys.modules.pop("own", None)


def own_network(write: Write, layers: str, returned: str = "") -> Config:
    """Return a run on digits, (1, 8, 8) with 10 classes, of a model of these layers."""
    write(
        f"""
        @dataclass
        class Own(Model):
            name: ClassVar[str] = "own"
            lr: float | None = 0.1

            def build(self, image, classes, rng):
                return {returned}nn.Sequential({layers})
        """,
    )
    return parse({**DIGITS, "model": {"name": "own"}})


def own_corruption(write: Write, relabel: str) -> Config:
    """Return a run on digits of a corruption that relabels in this way."""
    write(
        f"""
        @dataclass
        class Own(Corruption):
            name: ClassVar[str] = "own"

            def relabel(self, source, corrupt):
                {relabel}

            def transition(self, source, corrupt):
                return np.eye(source.classes)
        """,
    )
    return parse({**DIGITS, "model": {"name": "linear"}, "corruption": {"name": "own"}})

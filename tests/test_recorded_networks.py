"""Every network keeps its initial weights, its names in checkpoints and its first losses."""

from __future__ import annotations

import json

import pytest

from .golden.networks import FILE, NETWORKS, record

RECORDED = json.loads(FILE.read_text())


@pytest.mark.parametrize("network", NETWORKS)
def test_network_is_the_recorded_one(network: str) -> None:
    expected, found = RECORDED[network], record(network)
    losses, expected_losses = found.pop("losses"), expected.pop("losses")
    assert found == expected
    # processors differ in the last bits of a sum
    assert losses == pytest.approx(expected_losses, rel=1e-5)

"""The id of a run: stable, and changed by the keys alone that can change its numbers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from randlabels.cli import prepare_hydra
from randlabels.config import Config, Settings, parse
from randlabels.corruption.uniform import Uniform
from randlabels.registry import DEFAULTS, options
from randlabels.store.rundir import NOT_HASHED, flat_keys

from .synthetic import composed

prepare_hydra()


def test_same_values_in_other_words_are_the_same_run() -> None:
    run_id = composed("model=mlp", "corrupt=0.2").run_id
    assert composed("corrupt=0.20", "model=mlp", "optimizer.lr=0.01").run_id == run_id
    assert composed("corrupt=2e-1", "model=mlp", "model.hidden=[512]").run_id == run_id
    assert composed("corrupt=-0.0").run_id == composed().run_id


@pytest.mark.parametrize(
    "override",
    [
        "out=x",
        "name=x",
        "force=true",
        "plan=true",
        "on_failure=stop",
        "verbose=true",
        "checkpoint_every=1",
        "keep=[0]",
    ]
    + ["fit_threshold=0.5", "dataset.root=x", "dataset.download=false"],
)
def test_keys_that_cannot_change_the_numbers_do_not_change_the_run(override: str) -> None:
    assert composed(override).run_id == composed().run_id


@pytest.mark.parametrize(
    "override",
    ["corrupt=0.1", "seed=1", "epochs=2", "batch_size=2", "eval_every=2", "device=cpu"]
    + ["precision=bf16", "threads=2", "dataset=mnist", "dataset.train_size=9", "model=mlp"]
    + ["dataset.subset_seed=1", "corruption.seed=1", "model.depth=10", "optimizer.lr=1"]
    + ["optimizer=adam", "optimizer.weight_decay=0", "loss.label_smoothing=0.1"]
    + ["schedule=cosine", "schedule.milestones=[1]", "preprocess=scale", "preprocess=paper"]
    + ["corruption.nested=true", "corruption=pair_flip", "augment=crop_flip"],
)
def test_keys_that_can_change_the_numbers_change_the_run(override: str) -> None:
    assert composed(override).run_id != composed().run_id


POOL: dict[str, list[Any]] = {
    "int": [0, 1, 2, 10, 16],
    "int | None": [None, 1, 2],
    "float": [0.0, 0.1, 0.5, 1.0],
    "float | None": [None, 0.1, 0.5],
    "bool": [False, True],
    "list[int]": [[4], [4, 8], [150, 225]],
    "list[float]": [[4.0], [4.0, 8.0]],
}
"""Values of keys by type, of which two configs often have the same."""


CONTEXT = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**63 - 1),
        "corrupt": st.floats(0, 1),
        "name": st.sampled_from(["a", "b"]),
        "device": st.sampled_from(["auto", "cpu", "cuda:0", "cuda:1"]),
        "threads": st.integers(1, 64),
    },
)
"""Keys that every run may have."""


def variants(context: dict, group: str, option: str, field: dataclasses.Field) -> Iterator[Config]:
    """Yield a config for each value of one key; those out of its range are left out."""
    for value in POOL.get(str(field.type), []):
        with suppress(ValueError):
            keys = {group: {"name": option, field.name: value}} if group else {field.name: value}
            yield parse(context | keys)


@pytest.mark.slow
@pytest.mark.parametrize("group", ["", *DEFAULTS])
@settings(deadline=None, max_examples=5)
@given(context=CONTEXT)
def test_runs_have_one_id_exactly_if_no_key_differs_that_can_change_the_numbers(
    group: str, context: dict
) -> None:
    classes = options(group) if group else {"": Settings}
    for option, cls in classes.items():
        for field in dataclasses.fields(cls):
            for first, second in combinations(variants(context, group, option, field), 2):
                same = flat_keys(first.tree()) == flat_keys(second.tree())
                assert (first.hash == second.hash) == same
                assert (first.identity() == second.identity()) == same
                hashed = f"{group}.{field.name}".strip(".") not in NOT_HASHED
                assert hashed != same or field.name == "lr"  # lr=null may be the model's own value


def test_gpu_index_does_not_change_the_run() -> None:
    assert composed("device=cuda:1").hash == composed("device=cuda:0").hash
    assert composed("device=cuda").hash != composed("device=cpu").hash


def test_run_ids_never_change_between_versions() -> None:
    """Golden values: changing them would orphan every finished run; raise SCHEMA instead."""
    assert composed().run_id == "wrn-cifar10-uniform-p0-s0-7c0556b9"
    assert (
        composed("model=mlp", "corrupt=1.0", "seed=3").run_id
        == "mlp-cifar10-uniform-p1-s3-e1c77cb3"
    )


def test_run_id_has_safe_characters_only() -> None:
    class Odd(Uniform):
        name = "../c d\0'\n"

    config = dataclasses.replace(composed("corrupt=1e-7"), corruption=Odd())
    assert re.fullmatch(r"wrn-cifar10-\.\._c_d___-p1e-07-s0-[0-9a-f]{8}", config.run_id)

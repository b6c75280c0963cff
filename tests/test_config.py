"""The config: files and schema agree, and bad values are refused in a sentence."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from randlabels.cli import CONF, _keys, options_help, prepare_hydra
from randlabels.config import Settings, parse
from randlabels.registry import DEFAULTS, imported_options, options

from .synthetic import composed

prepare_hydra()

OPTION_FILES = sorted(f for group in DEFAULTS for f in (CONF / group).glob("*.yaml"))
SWEEP_FILES = sorted((CONF / "sweep").rglob("*.yaml"))
ALL_FILES = [CONF / "config.yaml", CONF / "dataset_keys.yaml", *OPTION_FILES]


def name_of(file: Path) -> str:
    return file.relative_to(CONF).with_suffix("").as_posix()


def test_every_option_has_a_file_and_every_file_an_option() -> None:
    found = {f"{group}/{name}" for group in DEFAULTS for name in options(group)}
    assert {name_of(file) for file in OPTION_FILES} == found


@pytest.mark.parametrize("file", OPTION_FILES, ids=name_of)
def test_option_file_holds_the_schemas_keys_and_defaults(file: Path) -> None:
    keys = _keys(file)
    name = keys.pop("name")
    default = options(file.parent.name)[name]()
    assert name == file.stem
    assert set(keys) == set(dataclasses.asdict(default))
    parsed = parse({file.parent.name: {"name": name, **keys}})
    wanted = parse({file.parent.name: {"name": name}})
    assert parsed == wanted


def test_primary_config_holds_the_schemas_keys_and_defaults() -> None:
    assert composed() == parse({})
    keys = yaml.safe_load((CONF / "config.yaml").read_text())
    keys.pop("defaults")
    assert keys == vars(Settings())


@pytest.mark.parametrize("file", ALL_FILES, ids=name_of)
def test_every_key_has_a_comment(file: Path) -> None:
    lines = file.read_text().splitlines()
    bare = [s for s in lines if re.match(r"[a-z_]+:", s) and "#" not in s]
    assert [s for s in bare if not s.startswith(("name:", "defaults:"))] == []


@pytest.mark.parametrize("file", OPTION_FILES, ids=name_of)
def test_every_option_composes(file: Path) -> None:
    config = composed(f"{file.parent.name}={file.stem}")
    assert getattr(config, file.parent.name).name == file.stem


@pytest.mark.parametrize("file", SWEEP_FILES, ids=name_of)
def test_sweep_file_starts_with_the_command_that_runs_it(file: Path) -> None:
    name = file.relative_to(CONF / "sweep").with_suffix("").as_posix()
    package, command = file.read_text().splitlines()[:2]
    assert package == "# @package _global_"  # Hydra reads it from the first line only
    assert command == f"# python -m randlabels.run sweep={name}"


def test_help_lists_every_group_option_and_key() -> None:
    text = options_help(imported_options())
    for group in DEFAULTS:
        assert re.search(rf"^{group}:$", text, re.M)
        for name, cls in options(group).items():
            assert re.search(rf"^  {name}\b", text, re.M)
            for field in dataclasses.fields(cls):
                assert f"{field.name}=" in text
    assert ".defaults=" not in text  # of an option's file, Hydra's


# Learning rates


def test_each_model_has_its_own_learning_rate_unless_one_is_given() -> None:
    assert composed("model=wrn").optimizer.lr == 0.1
    assert composed("model=mlp").optimizer.lr == 0.01
    assert composed("model=mlp", "optimizer.lr=0.3").optimizer.lr == 0.3


def test_resolved_config_reads_back_as_the_same_config() -> None:
    config = composed("model=mlp", "corrupt=0.2", "name=x", "threads=2")
    assert parse(yaml.safe_load(yaml.safe_dump(config.tree()))) == config


def test_committed_sweep_names_the_folder_by_default() -> None:
    assert parse({}, sweep="seed/readme").folder == Path("runs/seed-readme")
    assert parse({}).folder == Path("runs/default")
    assert parse({"name": "mine"}, sweep="seed/readme").folder == Path("runs/mine")


# Values


@given(st.floats())
def test_corrupt_is_a_probability(value: float) -> None:
    if 0 <= value <= 1:
        assert parse({"corrupt": value}).corrupt == value
    else:
        with pytest.raises(ValueError, match=r"^corrupt=.* must be between 0 and 1$"):
            parse({"corrupt": value})


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0},
        {"epochs": 2.5},
        {"epochs": None},
        {"batch_size": -1},
        {"eval_every": 0},
        {"seed": -1},
        {"corrupt": "abc"},
        {"device": "gpu"},
        {"precision": "fp16"},
        {"threads": 0},
        {"threads": True},
        {"out": ""},
        {"out": "a\0b"},
        {"name": ""},
        {"name": ".."},
        {"name": "../up"},
        {"name": "/abs"},
        {"name": "a b"},
        {"name": "a\nb"},
        {"name": "x" * 101},
        {"force": "perhaps"},
        {"checkpoint_every": -1},
        {"checkpoint_every": math.inf},
        {"fit_threshold": 0},
        {"fit_threshold": 1.1},
        {"dataset": {"name": "digits", "train_size": 0}},
        {"dataset": {"name": "digits", "size": 8}},
        {"dataset": {"name": "image_folder", "size": 0}},
        {"dataset": {"name": "image_folder", "channels": 2}},
        {"corruption": {"name": "uniform", "seed": -1}},
        {"corruption": {"name": "unform"}},
        {"corruption": {"name": "human", "seed": 2**32}},
        {"corruption": {"name": "instance", "std": 0}},
        {"corruption": {"name": "instance", "std": math.nan}},
        {"corruption": {"name": "instance", "inputs": "bytes"}},
        {"corruption": {"name": "shuffled_pixels", "unit": "channel"}},
        {"corruption": {"name": "random_pixels", "unit": "none"}},
        {"corruption": {"name": "gaussian_pixels", "moments": "image"}},
        {"augment": {"name": "flip_rotate", "degrees": 181}},
        {"model": {"name": "wrn", "depth": 27}},
        {"model": {"name": "wrn", "widen": 0}},
        {"model": {"name": "wrn", "dropout": 1}},
        {"model": {"name": "mlp", "hidden": [0]}},
        {"model": {"name": "mlp", "hidden": "512"}},
        {"model": {"name": "mlp", "lr": None}},
        {"optimizer": {"lr": -1}},
        {"optimizer": {"lr": 0}},
        {"optimizer": {"lr": math.nan}},
        {"optimizer": {"momentum": 1}},
        {"optimizer": {"momentum": 0, "nesterov": True}},
        {"optimizer": {"weight_decay": -1}},
        {"loss": {"label_smoothing": 2}},
        {"loss": {"name": "mse", "softmax": "perhaps"}},
        {"loss": {"name": "gce", "q": 0}},
        {"loss": {"name": "gce", "q": 1.1}},
        {"loss": {"name": "phuber_ce", "tau": 1}},
        {"loss": {"name": "phuber_ce", "tau": math.inf}},
        {"schedule": {"name": "step", "milestones": [-1]}},
        {"schedule": {"name": "step", "gamma": 0}},
        {"schedule": {"name": "exponential", "gamma": -1}},
        {"nosuch": 1},
    ],
    ids=str,
)
def test_bad_value_is_refused_in_one_sentence_that_names_it(values: dict) -> None:
    with pytest.raises(ValueError) as error:
        parse(values)
    sentence = str(error.value)
    key, value = next(iter(values.items()))
    assert key in sentence and "\n" not in sentence
    assert len(sentence) > len(key) + 15
    if isinstance(value, dict):
        assert any(str(k) in sentence or str(v) in sentence for k, v in value.items())


def test_equal_options_of_two_configs_are_not_the_same_object() -> None:
    """They are parsed once and copied, so that a change of one does not affect another."""
    tree = {"model": {"name": "mlp", "hidden": [8]}}
    first, second = parse(tree), parse(tree)
    first.model.hidden.append(4)  # type: ignore[attr-defined]
    first.optimizer.lr = 7.0
    third = parse(tree)
    for config in (second, third):
        assert config.model.hidden == [8]  # type: ignore[attr-defined]
        assert config.optimizer.lr == config.model.lr == 0.01

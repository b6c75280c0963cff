"""`precision=auto` is decided by the model and the kind of processor, and by nothing else."""

from __future__ import annotations

import shutil

import pytest

from randlabels.config import parse
from randlabels.machine import resources
from randlabels.machine.resources import resolve


@pytest.mark.parametrize(
    ("model", "with_bf16"),
    [
        ({"name": "wrn"}, "bf16"),
        ({"name": "inception"}, "bf16"),
        ({"name": "inception_no_bn"}, "bf16"),
        ({"name": "resnet18"}, "bf16"),
        ({"name": "mlp"}, "bf16"),
        ({"name": "mlp", "hidden": [512, 1024]}, "bf16"),
        ({"name": "mlp", "hidden": [512, 64]}, "fp32"),
        ({"name": "mlp", "hidden": [64]}, "fp32"),
        ({"name": "alexnet"}, "fp32"),
        ({"name": "lenet"}, "fp32"),
        ({"name": "linear"}, "fp32"),
        ({"name": "kernel"}, "fp32"),
    ],
    ids=str,
)
def test_auto_takes_bf16_where_it_was_measured_to_gain(
    model: dict, with_bf16: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse({"model": model, "device": "cpu"})
    monkeypatch.setattr(resources, "_multiplies_bf16", lambda: True)
    assert resolve(config, None).precision == with_bf16
    monkeypatch.setattr(resources, "_multiplies_bf16", lambda: False)
    assert resolve(config, None).precision == "fp32"


def test_what_is_asked_for_is_what_is_used_whatever_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for able in (True, False):
        monkeypatch.setattr(resources, "_multiplies_bf16", lambda able=able: able)
        for precision in ("fp32", "bf16"):
            config = parse({"precision": precision, "device": "cpu"})
            assert resolve(config, 3).precision == precision


def test_auto_is_hashed_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = parse({})
    monkeypatch.setattr(resources, "_multiplies_bf16", lambda: True)
    assert auto.hash == parse({"precision": "auto"}).hash
    assert (
        len({auto.hash, parse({"precision": "fp32"}).hash, parse({"precision": "bf16"}).hash}) == 3
    )


def test_compiled_steps_are_those_asked_for_and_need_a_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = {value: parse({"compile": value, "device": "cpu"}) for value in ("auto", "true", False)}
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "clang++" else None)
    resolved = {value: resolve(config, None).compile for value, config in asked.items()}
    assert resolved == {"auto": False, "true": True, False: False}
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"compile=true needs a C\+\+ compiler.*compile=false"):
        resolve(asked["true"], None)
    assert not resolve(asked["auto"], None).compile

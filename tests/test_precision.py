"""Resources are decided by the config and the kind of hardware, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
def test_auto_is_bf16_where_it_was_measured_to_be_faster(
    model: dict, with_bf16: str, set_bf16: Callable[[bool], None]
) -> None:
    config = parse({"model": model, "device": "cpu"})
    set_bf16(True)
    assert resolve(config, None).precision == with_bf16
    set_bf16(False)
    assert resolve(config, None).precision == "fp32"


def test_a_named_precision_is_used_on_every_processor(
    set_bf16: Callable[[bool], None],
) -> None:
    for able in (True, False):
        set_bf16(able)
        for precision in ("fp32", "bf16"):
            config = parse({"precision": precision, "device": "cpu"})
            assert resolve(config, 3).precision == precision


def test_auto_is_hashed_as_written(set_bf16: Callable[[bool], None]) -> None:
    auto = parse({})
    set_bf16(True)
    assert auto.hash == parse({"precision": "auto"}).hash
    assert (
        len({auto.hash, parse({"precision": "fp32"}).hash, parse({"precision": "bf16"}).hash}) == 3
    )


def test_steps_are_compiled_on_request_only_and_need_a_compiler(
    set_programs: Callable[..., None],
) -> None:
    asked = {value: parse({"compile": value, "device": "cpu"}) for value in ("auto", "true", False)}
    set_programs("clang++")
    resolved = {value: resolve(config, None).compile for value, config in asked.items()}
    assert resolved == {"auto": False, "true": True, False: False}
    set_programs()
    with pytest.raises(ValueError, match=r"compile=true needs a C\+\+ compiler.*compile=false"):
        resolve(asked["true"], None)
    assert not resolve(asked["auto"], None).compile


def test_threads_are_bounded_by_the_cores_and_heed_a_containers_quota(
    set_cores: Callable[[int], None],
) -> None:
    """A hundred thousand threads would end Python by a signal."""
    set_cores(2)
    assert resolve(parse({"device": "cpu"}), None).threads == 2
    assert resolve(parse({"device": "cpu"}), 0).threads == 1
    assert resolve(parse({"device": "cpu", "threads": "8"}), None).threads == 8
    for threads in ("9", "99999"):
        with pytest.raises(ValueError, match=f"threads={threads} must be at most 8, 4 for each"):
            resources.check_machine(parse({"device": "cpu", "threads": threads}))


def test_free_memory_is_within_the_limit_of_the_control_group(control_group: Path) -> None:
    """Some kernels state no limit, as on macOS."""
    machine = resources.free_memory("cpu")
    assert machine > 2**20
    (control_group / "memory.max").write_text("max\n")
    assert resources.free_memory("cpu") > 2**20
    (control_group / "memory.max").write_text("5000\n")
    (control_group / "memory.current").write_text("3000\n")
    assert resources.free_memory("cpu") == 2000

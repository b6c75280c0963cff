"""A command starts and ends without work that its run has no use for."""

import copy
import os
import runpy
import subprocess
import sys

import pytest
import torch

from randlabels.optimizer import SGD, Adam, AdamW

SHOWING = """
import sys
from randlabels import run
sys.argv = ["run", *sys.argv[1:]]
try:
    run.main()
finally:
    print(sorted({"torch", "torch._dynamo", "pandas", "matplotlib"} & set(sys.modules)))
"""


def heavy_imports(*arguments: str) -> str:
    """Return the modules of that list that a command imported."""
    done = subprocess.run(
        [sys.executable, "-c", SHOWING, *arguments], capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return done.stdout.splitlines()[-1]


def test_run_imports_no_compiler_and_no_tables(tmp_path):
    arguments = f"dataset=digits model=mlp epochs=1 dataset.train_size=10 out={tmp_path}".split()
    assert heavy_imports(*arguments) == "['torch']"


def test_import_of_the_package_changes_nothing_for_the_importer():
    code = "import gc; before = gc.get_threshold(); import randlabels, sys; "
    code += "sys.exit(gc.get_threshold() != before or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


COMMANDS = ["analysis.collect", "analysis.compare", "analysis.export", "analysis.report"]
COMMANDS += ["analysis.status", "randlabels.corruption.__main__"]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_shows_its_help_under_its_own_name(command, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, command, raising=False)
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(command, run_name="__main__", alter_sys=True)
    assert end.value.code in (None, 0)
    assert f"python -m {command.removesuffix('.__main__')} " in capsys.readouterr().out


@pytest.mark.parametrize("policy", [None, "ACTIVE"])
def test_waiting_threads_sleep_unless_the_environment_says_otherwise(policy, cli, monkeypatch):
    """Threads that spin make a run many times slower next to one busy neighbour."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    cli("nosuch=1")
    assert os.environ["OMP_WAIT_POLICY"] == (policy or "PASSIVE")


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_an_optimizer_without_its_wrappers_makes_the_steps_of_torchs_own(kind):
    options = kind(lr=0.1, weight_decay=0.01)
    start, gradients = torch.randn(5, 3), torch.randn(4, 5, 3)
    parameters = [start.clone().requires_grad_() for _ in range(2)]
    ours = options.build([parameters[0]])
    given = {key: value for key, value in ours.defaults.items() if key != "decoupled_weight_decay"}
    theirs = getattr(torch.optim, kind.__name__)([parameters[1]], **given)
    for half in (gradients[:2], gradients[2:]):
        for gradient in half:
            for parameter, optimizer in zip(parameters, (ours, theirs), strict=True):
                optimizer.param_groups[0]["lr"] = 0.1
                optimizer.zero_grad()
                parameter.grad = gradient.clone()
                optimizer.step()
        ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert torch.equal(*parameters)
    assert not torch.equal(parameters[0], start)

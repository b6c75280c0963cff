"""A command begins and ends without work that its run has no use for."""

import copy
import subprocess
import sys

import pytest
import torch

from randlabels.optimizer import SGD, Adam, AdamW

SHOWING = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count() > 100_000))  # the last to be called
from randlabels import run
sys.argv = ["run", *sys.argv[1:]]
try:
    run.main()
finally:
    print(sorted({"torch", "torch._dynamo", "pandas", "matplotlib"} & set(sys.modules)))
"""


def shown(*arguments: str) -> list[str]:
    """What a command imported of that list, and whether it leaves its garbage."""
    done = subprocess.run(
        [sys.executable, "-c", SHOWING, *arguments], capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return done.stdout.splitlines()[-2:]


def test_a_run_imports_no_compiler_and_leaves_its_garbage_to_the_system(tmp_path):
    arguments = f"dataset=digits model=mlp epochs=1 dataset.train_size=10 out={tmp_path}".split()
    assert shown(*arguments) == ["['torch']", "True"]


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

"""The keys of the Slurm launcher, its page, and its refusals on a machine without Slurm."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from .conftest import TINY, Cli

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "slurm.md").read_text()
SLURM = "hydra/launcher=slurm"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("cpus=0", "hydra.launcher.cpus=0 must be at least 1"),
        ("cpus=many", "hydra.launcher.cpus=many has the wrong type; give a whole number"),
        ("gpus=-1", "hydra.launcher.gpus=-1 must be at least 0"),
        ("memory_gb=0", "hydra.launcher.memory_gb=0.0 must be above 0 GB, or null"),
        ("minutes=2", "hydra.launcher.notice=120 seconds must be less than minutes=2"),
        ("+sbatch.open_mode=append", "hydra.launcher.sbatch.open_mode is set by the launcher"),
        ("+sbatch.wait=true", "hydra.launcher.sbatch.wait is set by the launcher; leave it out"),
        ("nosuch=1", "hydra.launcher.nosuch is an unknown key"),
        ("mem=1", "key; did you mean hydra.launcher.memory_gb? "),
        ("setup=module", "has the wrong type; give a list of texts such as ['module load cuda']"),
        (
            "+nosuch=1",
            "hydra.launcher.nosuch is an unknown key; hydra.launcher=slurm takes account",
        ),
    ],
)
def test_bad_key_is_refused_before_anything_is_submitted(
    cli: Cli, tmp_path: Path, override: str, sentence: str
) -> None:
    key = override.lstrip("+")
    plus = override.removesuffix(key)
    outcome = cli("-m", *TINY, SLURM, f"{plus}hydra.launcher.{key}")
    assert outcome.code == 1 and sentence in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_machine_without_slurm_can_plan_a_sweep_but_not_launch_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for model in ("model=mlp", "model=kernel"):
        outcome = cli("-m", "dataset=digits", model, SLURM, "device=cuda", "plan=true")
        assert outcome.code == 0 and "1 run in runs/default: 1 planned" in outcome.out
        assert "Of Slurm, an array of 1 job with cpus=1, minutes=240 each." in outcome.out
    outcome = cli("-m", *TINY, SLURM, "device=cuda")
    assert outcome.code == 1 and "needs Slurm's sbatch, which is not on this machine" in outcome.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slurm", "mine"])
def test_single_run_with_slurm_is_refused(
    name: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes a user's launcher that extends ours."""
    own = tmp_path / "conf" / "hydra" / "launcher" / "mine.yaml"
    own.parent.mkdir(parents=True)
    (written,) = re.findall(r"```yaml\n# \S+\n(.*?)```", DOCS, re.S)
    own.write_text(written)
    with_own = ["--config-dir", str(tmp_path / "conf"), *TINY]
    outcome = cli(*with_own, f"hydra/launcher={name}")
    assert outcome.err == f"Error: hydra/launcher={name} submits sweeps; add -m, for one run too\n"
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = cli("-m", *with_own, f"hydra/launcher={name}")
    assert "needs Slurm's sbatch" in outcome.err
    planned = cli("-m", *with_own, "seed=0,1,2", f"hydra/launcher={name}", "plan=true").out
    asked = {"slurm": "cpus=1", "mine": "partition=gpu, cpus=4, gpus=1"}[name]
    assert f"Of Slurm, an array of 3 jobs with {asked}, minutes=240 each." in planned


def test_launcher_chosen_with_a_dot_is_refused(cli: Cli) -> None:
    outcome = cli("-m", *TINY, "hydra.launcher=slurm")
    assert outcome.code == 1
    assert outcome.err == (
        "Error: hydra.launcher=slurm must have a slash; use hydra/launcher=slurm\n"
    )


def test_every_key_is_documented_with_its_default() -> None:
    keys = yaml.safe_load((ROOT / "conf" / "hydra" / "launcher" / "slurm.yaml").read_text())
    rows = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \|", DOCS, re.M))
    del keys["_target_"]
    assert {key: yaml.safe_load(value) for key, value in rows.items()} == keys
    assert len(DOCS.splitlines()) < 120


def test_key_of_another_launcher_names_that_launcher(cli: Cli) -> None:
    outcome = cli("-m", *TINY, "hydra.launcher.workers=2")
    assert outcome.err == (
        "Error: hydra.launcher.workers is a key of another launcher; use hydra/launcher=packed "
        "with it\n"
    )


def test_environment_of_hydras_jobs_is_refused_for_sweeps(cli: Cli) -> None:
    outcome = cli("-m", *TINY, "+hydra.job.env_set.X=1")
    assert outcome.code == 1 and "hydra.job.env_set must be empty for a sweep" in outcome.err

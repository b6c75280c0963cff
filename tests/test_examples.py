"""examples.parquet: each column from recorded logits, cleanlab's scores, kills, and refusals."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Callable
from functools import partial
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cleanlab.rank import get_normalized_margin_for_each_label, get_self_confidence_for_each_label

import randlabels
from randlabels import dynamics, fit
from randlabels.config import parse
from randlabels.experiment import Experiment, assemble
from randlabels.network import Classifier

from .conftest import BASIC, CPU, TINY, Cli, left_at, only_run, untimed_lines
from .killing import ForkServer

ASKED = [*TINY, "corrupt=0.4", "examples=true"]


def small_experiment(**keys: Any) -> Experiment:
    small = {
        "dataset": {"name": "digits", "train_size": 300, "holdout": 500},
        "model": {"name": "mlp", "hidden": [32]},
        "optimizer": {"lr": 0.2},
        "corrupt": 0.4,
        "epochs": 12,
        "batch_size": 16,
        "examples": True,
    }
    return assemble(parse({**small, **keys}))


def fit_and_record_logits(
    built: Experiment, monkeypatch: pytest.MonkeyPatch
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the examples of a fit, and all logits (evaluations, N, K) that they come from."""
    predict, logits = Classifier.predict, []

    def record(self: Classifier, images: torch.Tensor, pause: Callable[[], None]) -> torch.Tensor:
        outputs = predict(self, images, pause)
        if images is built.train.images:
            logits.append(outputs.double().numpy())
        return outputs

    monkeypatch.setattr(Classifier, "predict", record)
    state = fit.start(built, CPU)
    list(fit.sgd(built, state, CPU))
    assert state.dynamics is not None
    return pd.read_parquet(BytesIO(dynamics.encode(state.dynamics, built.train))), np.array(logits)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


# Against references


@pytest.mark.parametrize(
    ("eval_every", "epochs"), [(1, range(12)), (5, [4, 9, 11]), (99, [11])], ids=str
)
@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_every_column_follows_from_the_logits_in_float64(
    loss: str, eval_every: int, epochs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = small_experiment(eval_every=eval_every, loss={"name": loss})
    found, logits = fit_and_record_logits(built, monkeypatch)
    labels, rows = built.train.labels.numpy(), np.arange(300)
    assert len(logits) == len(epochs)
    right, onehot = logits.argmax(2) == labels, np.eye(10)[labels]
    given = softmax(logits)[:, rows, labels]
    margins = logits[:, rows, labels] - np.where(onehot == 1, -np.inf, logits).max(2)
    losses = -np.log(given) if loss == "ce" else ((logits - onehot) ** 2).mean(2)
    when = np.array(epochs)[:, None]
    first = np.where(right, when, 999).min(0)
    last = np.where(right, -1, when).max(0)
    expected = {
        "index": found["index"],
        "true": built.train.true,
        "label": labels,
        "changed": labels != built.train.true.numpy(),
        "prediction": logits[-1].argmax(1),
        "first_learned": pd.Series(first).astype("Int64").mask(first == 999),
        "last_wrong": pd.Series(last).astype("Int64").mask(last == -1),
        "forgotten": (right[:-1] & ~right[1:]).sum(0),
        "margin": margins.mean(0),
        "confidence": given.mean(0),
        "variability": given.std(0),
        "loss": losses[-1],
    }
    for epoch in {0, 2, 9} & set(epochs):
        row = list(epochs).index(epoch)
        expected |= {f"loss_epoch_{epoch}": losses[row], f"margin_epoch_{epoch}": margins[row]}
    expected = pd.DataFrame(expected)
    assert set(found) == set(expected) and list(found)[:12] == list(expected)[:12]
    single = {name: "float32" for name in found.columns[8:]}
    pd.testing.assert_frame_equal(found, expected[list(found)].astype(single), rtol=1e-5, atol=1e-6)
    assert eval_every > 1 or (found["forgotten"].max() > 1 and found["first_learned"].isna().any())


def test_index_is_the_position_in_the_stored_training_set(monkeypatch: pytest.MonkeyPatch) -> None:
    built = small_experiment(epochs=1)
    stored = built.config.dataset.load().train
    index = fit_and_record_logits(built, monkeypatch)[0]["index"].tolist()
    assert torch.equal(stored.images[index], built.train.images)
    assert torch.equal(stored.labels[index], built.train.true)


def test_scores_and_their_ranking_are_cleanlabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its margin is one of probabilities, which is a function of that of logits for two classes."""
    built = small_experiment()
    found, logits = fit_and_record_logits(built, monkeypatch)
    mean = softmax(logits).mean(0)
    score = get_self_confidence_for_each_label(built.train.labels.numpy(), mean)
    np.testing.assert_allclose(found["confidence"], score, atol=1e-6)
    assert (np.diff(score[np.argsort(found["confidence"])]) > -1e-6).all()

    pair, labels = torch.randn(300, 2), torch.arange(300) % 2
    margin = dynamics.update(None, 0, 1, pair, labels, torch.zeros(300))["margin"].numpy()
    score = get_normalized_margin_for_each_label(labels.numpy(), softmax(pair.double().numpy()))
    np.testing.assert_allclose((1 + np.tanh(margin / 2)) / 2, score, atol=1e-6)
    assert (np.argsort(margin) == np.argsort(score)).all()


# Interruptions and launchers


@pytest.mark.slow
def test_killed_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """Also if the launch that continues it leaves the key out."""
    config = {"dataset": {"name": "digits", "train_size": 64}, "corrupt": 0.4, "epochs": 3}
    config |= {"model": {"name": "mlp", "hidden": [8]}, "threads": "1", "checkpoint_every": 0}
    with ForkServer(tmp_path) as server:
        whole = server.execute({**config, "examples": True, "out": "whole"})
        assert whole["code"] == 0
        undisturbed = parse({**config, "out": str(tmp_path / "whole")}).run
        begun = 0
        for call in range(3, whole["calls"], 9):
            out = {"out": f"killed-{call}"}
            killed = server.execute(
                {**config, "examples": True, **out}, call=call, after=call % 4 == 1
            )
            run = parse({**config, "out": str(tmp_path / out["out"])}).run
            assert killed["signal"] == signal.SIGKILL
            begun += run.records_examples()
            again = {**config, "examples": not run.records_examples(), **out}
            assert server.execute(again)["code"] == 0
            assert run.examples.read_bytes() == undisturbed.examples.read_bytes()
            assert untimed_lines(run.path) == untimed_lines(undisturbed.path)
        assert begun > 3


def test_fit_left_within_an_evaluation_counts_it_once(tmp_path: Path) -> None:
    build = partial(small_experiment, sensitivity=8, epochs=3)
    whole = fit.start(build(), CPU)
    list(fit.sgd(build(), whole, CPU))
    state, places = left_at((22, 9, 130, 30, 1000), build, tmp_path / "c.pt")
    assert len(places) > 1 and whole.dynamics and state.dynamics
    assert whole.dynamics.keys() == state.dynamics.keys()
    for name, values in whole.dynamics.items():
        assert values.dtype == state.dynamics[name].dtype
        assert torch.equal(values, state.dynamics[name])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["packed", "joblib"])
def test_launchers_write_the_same_files_and_the_key_changes_no_number(
    cli: Cli, tmp_path: Path, launcher: str
) -> None:
    keys = ["-m", *TINY, "corrupt=0.4", "seed=0,1", "threads=1"]
    assert cli(*keys, BASIC).code == 0
    assert cli(*keys, "examples=true", "name=basic", BASIC).code == 0
    assert cli(*keys, "examples=true", "name=other", f"hydra/launcher={launcher}").code == 0
    runs = sorted((tmp_path / "runs" / "default").glob("*-s?-*"))
    assert len(runs) == 2 and not (runs[0] / "examples.parquet").exists()
    for run in runs:
        first, second = (tmp_path / "runs" / name / run.name for name in ("basic", "other"))
        assert untimed_lines(run) == untimed_lines(first) == untimed_lines(second)
        content = (first / "examples.parquet").read_bytes()
        assert (second / "examples.parquet").read_bytes() == content


def test_diverged_run_has_the_examples_of_its_last_finite_evaluation(
    cli: Cli, tmp_path: Path, measure_also: Callable[[Callable[..., dict]], None]
) -> None:
    assert cli(*ASKED, "name=two").code == 0
    calls = count()
    measure_also(lambda *arguments: {"train_loss": math.inf} if next(calls) == 2 else {})
    assert "Diverged" in cli(*ASKED, "epochs=9", "name=more").out
    two, more = (file.read_bytes() for file in sorted(tmp_path.glob("runs/*/*/*.parquet"))[::-1])
    assert two == more


# Reading and refusals


def test_code_on_the_page_finds_wrong_labels(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parent.parent / "docs" / "examples.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["suspects"]["changed"].mean() > 0.9 and len(names["one"]) == 1442


def test_tables_in_python_are_those_of_the_files(cli: Cli, tmp_path: Path) -> None:
    cli("-m", *ASKED, "seed=0,1", BASIC)
    cli(*TINY)
    table = randlabels.examples(tmp_path / "runs")
    assert list(table)[:3] == ["run_id", "index", "true"] and len(table) == 2 * 64
    for run_id, rows in table.groupby("run_id"):
        run = randlabels.load(tmp_path / "runs" / "default" / str(run_id))
        pd.testing.assert_frame_equal(
            rows.drop(columns="run_id").reset_index(drop=True), run.examples
        )
        assert torch.equal(torch.tensor(run.examples["changed"]), run.train.changed)


def test_absent_examples_are_an_error(cli: Cli, tmp_path: Path) -> None:
    cli(*TINY)
    with pytest.raises(FileNotFoundError, match="must hold runs with examples.parquet; use"):
        randlabels.examples(tmp_path)
    with pytest.raises(ValueError, match="examples.parquet must exist; the run needs examples="):
        _ = randlabels.load(only_run(tmp_path)).examples


def test_run_that_began_without_examples_is_refused(cli: Cli, tmp_path: Path) -> None:
    cli(*TINY, "corrupt=0.4")
    refused = cli(*ASKED)
    assert refused.code == 1 and refused.err.count("\n") == 1
    assert "Error: examples=true must be set from the first epoch, and " in refused.err
    assert "has 2 without; give this launch a name=, or force=true" in refused.err
    assert not (only_run(tmp_path) / "examples.parquet").exists()
    assert cli(*ASKED, "force=true").code == 0
    assert "Already done" in cli(*ASKED).out and "Already done" in cli(*ASKED[:-1]).out


@pytest.mark.parametrize("model", ["kernel", "theorem1"])
def test_exact_fits_are_refused(cli: Cli, tmp_path: Path, model: str) -> None:
    refused = cli("dataset=digits", f"model={model}", "examples=true")
    expected = f"examples=true has no meaning for model={model}, which is solved and not trained"
    assert refused.code == 1 and expected in refused.err and not (tmp_path / "runs").exists()


def test_changed_means_an_altered_image_under_a_corruption_of_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = small_experiment(corruption={"name": "random_pixels"}, epochs=1)
    found, _ = fit_and_record_logits(built, monkeypatch)
    assert (found["label"] == found["true"]).all()
    assert built.train.altered is not None and 90 < found["changed"].sum() < 150
    assert found["changed"].tolist() == built.train.altered.tolist()

"""The closed form of the error on noisy test labels: counts, published formulas, figure, table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import collect, compare, figures, theory
from randlabels.corruption import Source
from randlabels.corruption.asymmetric import Asymmetric, PairFlip
from randlabels.corruption.uniform import Uniform, UniformCount, UniformExclusive
from randlabels.store.rundir import write_json

from .synthetic import OTHER_METRICS, write_run

KNOWN = [
    (Uniform, "cifar10"),
    (UniformCount, "cifar10"),
    (UniformExclusive, "cifar10"),
    (PairFlip, "cifar10"),
    (Asymmetric, "cifar10"),
    (Asymmetric, "mnist"),
    (Asymmetric, "cifar100"),
]


@pytest.mark.parametrize(("kind", "dataset"), KNOWN)
def test_closed_form_is_what_is_counted_on_corrupted_labels(kind: type, dataset: str) -> None:
    """A network that repeats the label of its nearest training image, which it confuses evenly."""
    classes, size, corrupt, clean_error = 100 if dataset == "cifar100" else 10, 200_000, 0.3, 0.25
    rng = np.random.default_rng(0)
    true = np.arange(size) % classes
    wrong = (true + rng.integers(1, classes, size)) % classes
    nearest = np.where(rng.random(size) < clean_error, wrong, true)

    def relabel(labels: np.ndarray, seed: int) -> np.ndarray:
        source = Source(labels, np.zeros((size, 0)), classes, dataset, "test")
        return kind(seed=seed).relabel(source, corrupt)

    counted = np.mean(relabel(nearest, seed=1) != relabel(true, seed=2))
    matrix = theory.transition(kind.name, dataset, corrupt, classes)
    source = Source(true, np.zeros((size, 0)), classes, dataset, "test")
    error = theory.noisy_error(clean_error, matrix)
    assert error == pytest.approx(counted, abs=4 * 0.5 / size**0.5)
    stated = kind().transition(source, corrupt)
    assert error == pytest.approx(theory.noisy_error(clean_error, stated))


def test_closed_form_has_the_published_cases() -> None:
    """Of Chen et al. 2019 for exclusive noise without a clean error, and of uniform noise."""
    exclusive = theory.transition("uniform_exclusive", "digits", 0.3, 10)
    assert theory.noisy_error(0.0, exclusive) == pytest.approx(1 - (0.7**2 + 0.3**2 / 9))
    for corrupt, q in ((0.0, 1.0), (0.3, 0.49), (1.0, 0.0)):
        uniform = theory.transition("uniform", "digits", corrupt, 10)
        assert theory.noisy_error(0.2, uniform) == pytest.approx(1 - (q * 0.8 + (1 - q) / 10))


@pytest.mark.parametrize("kind", ["instance", "human", "file", "matrix", "random_pixels"])
def test_no_closed_form_without_a_transition_matrix(kind: str) -> None:
    assert theory.transition(kind, "cifar10", 0.3, 10) is None


def test_figure_and_table_state_the_closed_form(tmp_path: Path, capsys) -> None:
    """Test accuracy on true labels is 0.9 and 0.91, and measured noisy accuracy 0.25."""
    for level in (0.0, 0.5):
        for seed in (0, 1):
            run = write_run(tmp_path, [0.5, 1.0], corrupt=level, seed=seed)
            write_json(run.corruption, {"classes": 10})
    expected = 1 - (0.25 * 0.905 + 0.75 / 10)
    (axis,) = figures.build(collect.collect(tmp_path)[0])["test_error_noisy"][0].axes
    (dashed,) = (line for line in axis.lines if line.get_linestyle() == "--")
    assert dashed.get_ydata().tolist() == pytest.approx([9.5, 100 * expected])
    compare.main([str(tmp_path), "--to", "theory"])
    assert "digits, mlp, uniform, corrupt 0.5" in capsys.readouterr().out
    (row,) = pd.read_csv(tmp_path / "summary" / "compare_theory.csv").to_dict("records")
    assert (row["published"], row["ours"]) == pytest.approx((expected, 1 - OTHER_METRICS))
    assert (row["source"], row["n"], row["verdict"]) == ("theory", 2, "differs")


def test_runs_without_a_closed_form_end_in_a_sentence(tmp_path: Path) -> None:
    write_run(tmp_path, [0.5, 1.0], corrupt=0.0)
    with pytest.raises(SystemExit, match=r"^Error: \S+ must hold runs at corrupt=0 and at higher"):
        compare.main([str(tmp_path), "--to", "theory"])

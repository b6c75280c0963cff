"""Exact fits: the kernel solution against plain float64 references, and the theorem."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from randlabels import exact
from randlabels.kernels import cholesky, conv, features, functions, system
from randlabels.kernels.cholesky import Breakdown, Triangle
from randlabels.kernels.rows import Rows
from randlabels.models import kernel as kernel_model
from randlabels.models.theorem1 import Theorem1, evaluate, represent
from randlabels.rundir import read_json

from .conftest import Cli, numbers, only_run

KERNEL = ["model=kernel", "dataset=digits"]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many panels and tiles in a small matrix."""
    for module in (cholesky, conv):
        monkeypatch.setattr(module, "BLOCK", 64)
    for module in (cholesky, system):
        monkeypatch.setattr(module, "TILE", 32)


def positive(n: int) -> torch.Tensor:
    """A well-conditioned positive definite matrix (n, n) float64."""
    rng = torch.Generator().manual_seed(n)
    a = torch.randn(n, n, generator=rng, dtype=torch.float64)
    return a @ a.T / n + torch.eye(n, dtype=torch.float64)


def triangle(matrix: torch.Tensor, dtype: torch.dtype) -> Triangle:
    filled = Triangle.empty(len(matrix), dtype, "cpu")
    for rows, columns, view in filled.tiles():
        view.copy_(matrix[rows, columns])
    return filled


@pytest.mark.parametrize("n", [1, 31, 32, 64, 65, 200])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_factor_in_blocks_solves_as_scipy_does(
    small_blocks: None, n: int, dtype: torch.dtype, tolerance: float
) -> None:
    matrix = positive(n)
    right = torch.randn(n, 3, dtype=torch.float64)
    factor = triangle(matrix, dtype)
    done = []
    factor.factorise(done.append)
    solution = factor.solve(right.to(dtype)).double()
    expected = scipy.linalg.solve(matrix.numpy(), right.numpy(), assume_a="pos")
    np.testing.assert_allclose(solution, expected, atol=tolerance, rtol=tolerance)
    lower = scipy.linalg.cholesky(matrix.numpy(), lower=True)
    assert factor.smallest_pivot() == pytest.approx(lower.diagonal().min() ** 2, rel=1e-4)
    assert sum(done) == pytest.approx(factor.operations())
    assert n < 200 or factor.operations() > n**3 / 3


def test_triangle_takes_half_the_memory_of_its_matrix() -> None:
    assert Triangle.size(60_000) * 4 < 7.5e9
    assert Triangle.size(60_000) < 0.52 * 60_000**2


def test_factor_that_breaks_down_names_the_row(small_blocks: None) -> None:
    matrix = torch.eye(100, dtype=torch.float64)
    matrix[77, 77] = -1.0
    with pytest.raises(Breakdown, match="row 77 is not positive"):
        triangle(matrix, torch.float32).factorise()


def test_pixels_have_exact_inner_products() -> None:
    codes = torch.randint(0, 256, (50, 784), generator=torch.Generator().manual_seed(0))
    rows = Rows(codes.float() / 255)
    assert rows.exact
    whole = [[int((a * b).sum()) for b in codes] for a in codes]
    found = rows.inner(slice(0, 50), rows, slice(0, 50))
    np.testing.assert_array_equal(found, np.array(whole) / 255**2)
    np.testing.assert_allclose(rows.squares, found.diagonal(), rtol=1e-14)


def test_other_rows_have_float64_inner_products() -> None:
    values = torch.randn(40, 30)
    rows = Rows(values)
    assert not rows.exact
    expected = values.double() @ values.double().T
    np.testing.assert_allclose(rows.inner(slice(3, 9), rows, slice(5, 40)), expected[3:9, 5:])


def test_kernels_are_their_formulas() -> None:
    x = np.random.default_rng(0).random((20, 6))
    rows = Rows(torch.from_numpy(x).float())
    x = rows.values.double().numpy()
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = {
        "gaussian": (functions.gaussian(0.3), np.exp(-0.3 * distance**2)),
        "laplacian": (functions.laplacian(0.3), np.exp(-0.3 * distance)),
        "polynomial": (functions.polynomial(4), (unit @ unit.T) ** 4),
        "linear": (functions.linear(), x @ x.T),
    }
    for name, (function, values) in expected.items():
        inner = rows.inner(slice(0, 20), rows, slice(0, 20))
        found = function(inner, rows.squares, rows.squares)
        np.testing.assert_allclose(found, values, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_solution_outputs_and_norm_are_those_of_the_plain_formula(
    small_blocks: None, ridge: float
) -> None:
    rng = torch.Generator().manual_seed(0)
    train, test = (torch.randn(n, 8, generator=rng) for n in (150, 70))
    targets = [torch.randn(150, k, generator=rng, dtype=torch.float64) for k in (3, 2)]
    equations = system.KernelSystem(Rows(train), Rows(test), functions.gaussian(0.2), ridge)
    factor = Triangle.empty(150, torch.float32, "cpu")
    equations.fill(factor)
    factor.factorise()
    solutions = system.solve(equations, factor, targets)

    x, z = train.double().numpy(), test.double().numpy()

    def k(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-0.2 * ((a[:, None] - b[None]) ** 2).sum(2))

    for target, solution in zip(targets, solutions, strict=True):
        a = scipy.linalg.solve(k(x, x) + ridge * np.eye(150), target.numpy())
        np.testing.assert_allclose(solution.train, k(x, x) @ a, atol=1e-5)
        np.testing.assert_allclose(solution.test, k(z, x) @ a, atol=1e-5)
        assert solution.norm == pytest.approx(np.sqrt(np.trace(a.T @ k(x, x) @ a)), rel=1e-5)
        assert solution.relative_residual <= system.LIMIT


def test_refinement_that_does_not_arrive_is_refused(small_blocks: None) -> None:
    """Equal rows make K singular; rounding hides it from the factorisation, but not from this."""
    x = torch.randn(80, 4)
    equations = system.KernelSystem(Rows(x), Rows(x), functions.gaussian(0.2), 0.0)
    factor = triangle(torch.eye(80, dtype=torch.float64), torch.float32)  # of another matrix
    factor.factorise()
    with pytest.raises(Breakdown, match="stopped at a relative residual of"):
        system.solve(equations, factor, [torch.randn(80, 1, dtype=torch.float64)])


def test_random_convolutional_kernel_is_the_product_of_its_features(small_blocks: None) -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(90, 3, 12, 12, generator=rng)
    train, test = images[:70], images[70:]
    equations = conv.ConvSystem(train, test, 30, 4, 2, 0.5, 0.25, rng)
    equations.BATCH = 16  # type: ignore[misc]  # in two batches
    weights = equations.filters.double()

    def phi(part: torch.Tensor) -> np.ndarray:
        rows = []
        for image in part.double():
            active = np.zeros((5, 5, 30))
            for i in range(5):
                for j in range(5):
                    patch = image[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4].flatten()
                    patch = patch - patch.mean()
                    patch = patch / (patch.square().mean() + 10 / 255**2).sqrt()
                    patch = torch.cat([patch, torch.ones(1, dtype=torch.float64)])
                    active[i, j] = (weights @ patch).clamp(min=0).numpy()
            halves = (slice(2), slice(2, None))
            rows.append([active[a, b].mean((0, 1)) for a in halves for b in halves])
        return np.array(rows).reshape(len(part), -1)

    x, z = phi(train), phi(test)
    k = Triangle.empty(70, torch.float64, "cpu")
    equations.fill(k)
    for rows, columns, view in k.tiles():
        expected = (x @ x.T + 0.25 * np.eye(70))[rows, columns]
        np.testing.assert_allclose(np.tril(view), np.tril(expected), rtol=1e-4, atol=1e-5)
    a = torch.randn(70, 2, dtype=torch.float64)
    np.testing.assert_allclose(equations.outputs(a), x @ x.T @ a.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(equations.predictions(a), z @ x.T @ a.numpy(), rtol=1e-4, atol=1e-4)


def test_gabor_filters_ignore_brightness_and_tell_orientations_apart() -> None:
    filters = features.gabor_filters(4, 4.0)
    assert filters.sum((1, 2)).abs().max() < 1e-6
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    for k in range(4):
        angle = math.pi * k / 4
        grating = torch.cos(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / 4)
        found = features.gabor(grating[None, None], 4, [4.0], 28).view(4)
        assert int(found.argmax()) == k and found[k] > 2 * found[(k + 1) % 4]


def test_run_interpolates_random_labels_and_writes_one_record(cli: Cli, tmp_path: Path) -> None:
    outcome = cli(*KERNEL, "corrupt=1.0")
    assert outcome.code == 0 and "Acc-tr: 100.00" in outcome.out
    run = only_run(tmp_path)
    result = read_json(run / "done.json")
    assert result is not None
    assert result["epochs"] == 1 and result["parameters"] == 1442 * 10
    assert result["solution"]["relative_residual"] <= 1e-6
    assert result["final"]["train_acc"] == 1.0 and result["final"]["test_acc"] < 0.2
    assert not (run / "checkpoint.pt").exists() and not (run.parent / ".factors").exists()
    assert "Already done" in cli(*KERNEL, "corrupt=1.0").out


def count_factorisations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    original = Triangle.factorise

    def factorise(self: Triangle, *arguments: object) -> None:
        counted.append(self.n)
        original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Triangle, "factorise", factorise)
    return counted


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_sweep_has_one_factorisation(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    counted = count_factorisations(monkeypatch)
    sweep = ["corrupt=0.0,0.5,1.0", "corruption.seed=1,2", "seed=0,1"]
    outcome = cli("-m", *KERNEL, *sweep, f"hydra/launcher={launcher}")
    assert outcome.code == 0 and "12 done" in outcome.out and counted == [1442]
    # The numbers are those of a run on its own.
    monkeypatch.chdir(tmp_path)
    cli(*KERNEL, "corrupt=0.5", "corruption.seed=2", "name=alone")
    (alone,) = (tmp_path / "runs" / "alone").glob("kernel-*")
    together = tmp_path / "runs" / "default" / alone.name
    first, second = (read_json(run / "done.json")["final"] for run in (alone, together))  # type: ignore[index]
    assert first == pytest.approx(second, abs=1e-6)


def test_networks_and_kernels_share_a_sweep(cli: Cli) -> None:
    outcome = cli("-m", "dataset=digits", "model=linear,kernel", "plan=true")
    assert outcome.code == 0 and "2 planned" in outcome.out


def test_processes_share_one_factorisation_through_a_file(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = count_factorisations(monkeypatch)
    for corrupt in (0.0, 0.5):
        assert cli(*KERNEL, f"corrupt={corrupt}", "model.cache=true").code == 0
    assert counted == [1442]
    (cache,) = (tmp_path / "runs/default/.factors").glob("*.npy")
    cache.write_bytes(cache.read_bytes()[:-1000])
    outcome = cli(*KERNEL, "corrupt=1.0", "model.cache=true")
    assert outcome.code == 0 and "is damaged and is replaced" in outcome.out
    assert counted == [1442, 1442]
    assert cli(*KERNEL, "corrupt=0.2", "model.cache=true").code == 0 and len(counted) == 2


@pytest.mark.parametrize("moment", ["factorise", "save"])
def test_killed_fit_leaves_nothing_that_hinders_the_next(
    cli: Cli, tmp_path: Path, moment: str
) -> None:
    """SIGKILL in the factorisation, or with half of the cache written."""
    code = f"""
import os, signal, sys
from randlabels.kernels.cholesky import Triangle
from randlabels import run
def die(self, *arguments):
    if {moment == "save"}:
        arguments[0].write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
Triangle.{moment} = die
sys.argv = ["randlabels", *{[*KERNEL, "corrupt=0.5", "model.cache=true"]!r}]
run.main()
"""
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    assert killed.returncode == -signal.SIGKILL
    started = time.perf_counter()
    assert cli(*KERNEL, "corrupt=0.5", "model.cache=true").code == 0
    assert time.perf_counter() - started < 60  # no lock is waited for
    assert {f.suffix for f in (tmp_path / "runs/default/.factors").iterdir()} <= {".npy", ".lock"}
    cli(*KERNEL, "corrupt=0.5", "name=undisturbed")
    runs = sorted((tmp_path / "runs").glob("*/kernel-*"))
    assert len(runs) == 2 and numbers(runs[0]) == numbers(runs[1])


def test_bad_input_is_one_sentence(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for override, message in {
        "epochs=5": "epochs=5 has no meaning for model=kernel",
        "optimizer.lr=0.1": "optimizer.lr=0.1 has no meaning",
        "schedule=cosine": "schedule=cosine has no meaning",
        "loss=gce": "loss=gce has no meaning",
        "precision=bf16": "precision=bf16 is not for model=kernel; use auto, fp32 or fp64",
        "model.kernel=sinc": "model.kernel=sinc is unknown; use gaussian",
        "model.features=random_conv": "use model.kernel=linear",
        "model.ridge=-1": "model.ridge=-1.0 must be 0 or a positive number",
    }.items():
        outcome = cli(*KERNEL, override)
        assert outcome.code == 1 and message in outcome.err, override
        assert len(outcome.err.strip().splitlines()) == 1
    outcome = cli("dataset=digits", "model=mlp", "precision=fp64")
    assert "precision=fp64 is not for model=mlp; use auto, fp32 or bf16" in outcome.err
    monkeypatch.setattr(exact, "free_memory", lambda device: 2**20)
    outcome = cli(*KERNEL)
    assert outcome.code == 1 and "needs 0.5 GiB of memory and 0.0 GiB are free" in outcome.err


def test_singular_system_names_the_remedy(cli: Cli, tmp_path: Path) -> None:
    """A linear kernel on 64 pixels has rank 64."""
    outcome = cli(*KERNEL, "model.kernel=linear")
    assert outcome.code == 1
    error = read_json(only_run(tmp_path) / "error.json")
    assert error is not None and "use a larger model.ridge or precision=fp64" in error["exception"]
    assert cli(*KERNEL, "model.kernel=linear", "model.ridge=1.0").code == 0


def test_double_precision_agrees(cli: Cli, tmp_path: Path) -> None:
    cli("-m", *KERNEL, "precision=fp32,fp64", "corrupt=0.5")
    first, second = (
        read_json(run / "done.json")["final"]  # type: ignore[index]
        for run in sorted((tmp_path / "runs").glob("*/kernel-*"))
    )
    assert first == pytest.approx(second, abs=1e-6)


@pytest.mark.data
@pytest.mark.timeout(600)
def test_ten_thousand_mnist_images_are_classified_as_by_scipy(real_data: Path) -> None:
    from torchvision.datasets import MNIST

    parts = [MNIST(str(real_data), train=train) for train in (True, False)]
    x, z = (part.data.flatten(1).float() / 255 for part in parts)
    x, y = x[:10_000], torch.nn.functional.one_hot(parts[0].targets[:10_000], 10).double()
    model = kernel_model.Kernel()
    fit = model.solve(
        x.view(-1, 1, 28, 28),
        z.view(-1, 1, 28, 28),
        [y],
        torch.Generator(),
        kernel_model.Means(torch.float32),
    )[0]
    pixels, unseen = ((part.data.flatten(1).double() / 255).numpy() for part in parts)
    pixels = pixels[:10_000]

    def k(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        distance = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        return np.exp(-0.02 * distance)

    coefficients = scipy.linalg.solve(k(pixels, pixels), y.numpy(), assume_a="pos")
    expected = k(unseen, pixels) @ coefficients
    np.testing.assert_array_equal(fit.test.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(fit.test, expected, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 100, 1000, 4000, 50_000])
def test_theorem_represents_random_labels_with_2n_plus_d_weights(n: int) -> None:
    rng = torch.Generator().manual_seed(n)
    x = torch.randn(n, 50, generator=rng)
    labels = torch.randint(0, 10, (n,), generator=rng)
    model = Theorem1()
    fit = model.solve(
        x[:, None, None], x[:, None, None], [model.encode(labels, 10)], rng, kernel_model.Means()
    )[0]
    assert fit.parameters == 2 * n + 50
    assert (fit.train[:, 0] - labels).abs().max() < 1e-5
    assert torch.equal(model.decode(fit.train), labels)


def test_theorem_is_the_network_of_the_paper() -> None:
    """Thresholds interleave with the images, and the plain sum over the units is the same."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(40, generator=rng, dtype=torch.float64)
    y = torch.randint(0, 10, (40,), generator=rng).double()
    thresholds, weights = represent(x, y)
    order = x.sort().values
    assert (thresholds < order).all() and (thresholds[1:] > order[:-1]).all()
    z = torch.cat([x, torch.linspace(-4, 4, 99, dtype=torch.float64)])
    plain = ((z[:, None] - thresholds).clamp(min=0) * weights).sum(1)
    np.testing.assert_allclose(evaluate(z, thresholds, weights), plain, atol=1e-9)
    np.testing.assert_allclose(evaluate(x, thresholds, weights), y, atol=1e-10)


def test_theorem_refuses_equal_images_by_their_indices() -> None:
    images = torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8)
    images[17] = images[5]
    with pytest.raises(ValueError, match="training images 5 and 17 are equal"):
        Theorem1().check(images, 10, 10, kernel_model.Means())
    with pytest.raises(ArithmeticError, match="have the same projection"):
        represent(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))


def test_theorem_run_counts_its_weights(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("model=theorem1", "dataset=digits", "corrupt=1.0")
    assert outcome.code == 0 and f"Number of parameters: {2 * 1442 + 64}" in outcome.out
    assert "Acc-tr: 100.00" in outcome.out

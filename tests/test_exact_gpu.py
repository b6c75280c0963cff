"""Exact fits on a GPU give the CPU's numbers and mix no tensors of both; tensors pretend."""

from __future__ import annotations

import pytest
import torch

from randlabels.model import SolveOptions
from randlabels.model.kernel import Kernel
from randlabels.model.theorem1 import Theorem1

from .pretend_gpu import GpuTensor, PretendGpu

MODELS = {
    "gaussian": Kernel(gamma=1.0, ridge=1e-6),
    "laplacian": Kernel(kernel="laplacian"),
    "polynomial": Kernel(kernel="polynomial", ridge=1e-3),
    "gabor": Kernel(features="gabor", wavelengths=[4.0], ridge=1e-4),
    "random_conv": Kernel(kernel="linear", features="random_conv", filters=20, patch=3, ridge=0.1),
    "theorem1": Theorem1(),
}


@pytest.fixture
def cuda_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch take "cuda" for a device of this machine, whose bf16 is that of GPUs."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_exact_fit_on_a_gpu_has_the_numbers_of_the_cpu(
    small_blocks: None, cuda_on_a_cpu: None, name: str, dtype: torch.dtype
) -> None:
    model = MODELS[name]
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (90, 1, 8, 8), generator=rng).float() / 255
    labels = torch.randint(0, 4, (70,), generator=rng)
    arguments = images[:70], images[70:], [model.encode(labels, 4)]
    options = SolveOptions(dtype)
    (expected,) = model.solve(*arguments, torch.Generator().manual_seed(1), options)
    train, test, (target,) = arguments
    on_gpu = GpuTensor(train), GpuTensor(test), [GpuTensor(target)]
    with PretendGpu():
        (found,) = model.solve(*on_gpu, torch.Generator().manual_seed(1), options)
    for mine, theirs in ((found.train, expected.train), (found.test, expected.test)):
        assert isinstance(mine, GpuTensor)
        torch.testing.assert_close(mine.cpu(), theirs, atol=1e-5, rtol=1e-5)


def test_pretended_gpu_refuses_a_mix_of_devices(cuda_on_a_cpu: None) -> None:
    with PretendGpu():
        on_gpu = torch.ones(3, device="cuda:0")
        assert torch.equal((on_gpu + 1).cpu(), torch.full((3,), 2.0))
        with pytest.raises(RuntimeError, match="mixes CPU and GPU tensors"):
            on_gpu + torch.ones(3)

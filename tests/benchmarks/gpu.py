"""Check whether a GPU trains correctly, and how fast: one line for each question.

    python -m tests.benchmarks.gpu [--device cuda:0] [--only graph,speed] [--quick]

It needs no data: the images are random, in the shape of CIFAR-10's. If a question raises, its line
says so. After an error from which the GPU does not recover, a new process runs the next sections.
"""

from __future__ import annotations

import argparse
import io
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from randlabels import fit, solve
from randlabels.machine import gpu
from randlabels.machine.resources import Resources, cpu_count
from randlabels.store import provenance

from ._fits import Trained, Tree, channels_first, difference, experiment, train

MODELS = ("wrn", "mlp", "resnet18", "inception", "inception_no_bn", "alexnet", "lenet", "linear")
SMALL_LR = {"optimizer": {"name": "sgd", "lr": 2**-8}}  # rounding errors do not grow with it


def main() -> None:
    """Ask the questions of all sections, or of those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="fewer images, for a quick try")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("Error: PyTorch finds no GPU that it can use here; run this where there is one")
    gpu.set_arithmetic()
    sections = options.only.split(",")
    for number, name in enumerate(sections):
        for question, answer in SECTIONS[name](options.device, options.quick):
            ask(f"{name}: {question}", answer)
            if is_lost(options.device):
                rest = ["--device", options.device, "--only", ",".join(sections[number + 1 :])]
                print("The GPU is lost to this process; the next sections run in a new one.")
                command = [sys.executable, "-m", "tests.benchmarks.gpu", *rest]
                sys.exit(subprocess.run([*command, *["--quick"] * options.quick]).returncode)


def ask(question: str, answer: Callable[[], object]) -> None:
    began = time.monotonic()
    try:
        text = str(answer())
    except Exception as error:
        text = f"RAISED {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
    print(f"{question:60} {text}  [{time.monotonic() - began:.1f} s]", flush=True)


def is_lost(device: str) -> bool:
    try:
        torch.cuda.synchronize(device)
        return False
    except RuntimeError:
        return True


Questions = Iterator[tuple[str, Callable[[], object]]]


def machine(device: str, quick: bool) -> Questions:
    """Ask for hardware and versions, and whether fp32 is IEEE."""
    described = provenance.describe({"device": device})
    keys = ("device_name", "capability", "driver", "cuda", "cudnn", "tf32", "versions")
    yield "hardware and versions", lambda: {key: described[key] for key in keys}

    def error_of_a_convolution() -> str:
        rng = torch.Generator().manual_seed(0)
        x, w = (torch.randn(64, 64, n, n, generator=rng) for n in (32, 3))
        exact = torch.nn.functional.conv2d(x.double(), w.double())
        found = torch.nn.functional.conv2d(x.to(device), w.to(device)).cpu().double()
        return f"{float((found - exact).abs().max() / exact.abs().max()):.1e} (TF32: about 1e-3)"

    yield "error of a convolution in fp32", error_of_a_convolution


def graph(device: str, quick: bool) -> Questions:
    """Ask whether captured steps train as the same steps without a graph."""
    others = {
        "dropout, crop_flip": {"model": {"name": "wrn", "depth": 10, "dropout": 0.2}}
        | {"augment": {"name": "crop_flip"}},
        "flip_rotate, adamw": {"model": {"name": "mlp"}, "augment": {"name": "flip_rotate"}}
        | {"optimizer": {"name": "adamw", "lr": 2**-10}},
        "adam, mse, sensitivity": {"model": {"name": "mlp"}, "loss": {"name": "mse"}}
        | {"optimizer": {"name": "adam", "lr": 2**-10}, "sensitivity": 64},
    }
    trees = {name: {"model": {"name": name}, **SMALL_LR} for name in MODELS[: 2 if quick else None]}
    for (name, tree), precision in itertools.product({**trees, **others}.items(), ("fp32", "bf16")):

        def compare(tree: Tree = tree, precision: str = precision) -> str:
            captured = train(device, tree, 1400, precision)
            eager, again = (train(device, tree, 1400, precision, graphs=False) for _ in range(2))
            losses = [round(record["train_loss"], 5) for record in captured.records]
            return (
                f"captured {captured.captured}, weights differ by "
                f"{difference(captured, eager):.1e} (eager twice: {difference(again, eager):.1e}), "
                f"losses {losses}"
            )

        yield f"equals eager: {name} {precision}", compare


def many(device: str, quick: bool) -> Questions:
    """Ask whether many runs in one process are equal: more than the 32 streams that torch has."""

    def repeat() -> str:
        tree = {"model": {"name": "mlp"}, "batch_size": 32, **SMALL_LR}
        first = train(device, tree, 300, "fp32")
        others = [train(device, tree, 300, "fp32") for _ in range(8 if quick else 40)]
        worst = max(difference(each, first) for each in others)
        memory = torch.cuda.memory_reserved(device) / 2**20
        return f"weights differ by {worst:.1e} at most; {memory:.0f} MiB reserved at the end"

    yield "runs of one process are equal", repeat


def resume(device: str, quick: bool) -> Questions:
    """Ask whether a run can stop in the middle of an epoch, after its capture."""

    def interrupt() -> str:
        tree = {
            "model": {"name": "wrn", "depth": 10, "dropout": 0.2},
            "batch_size": 64,
            "epochs": 2,
        }
        tree |= {"augment": {"name": "crop_flip"}, "batch_size": 64}
        tree |= {"optimizer": {"name": "adamw", "lr": 2**-10}}
        whole = train(device, tree, 400, "fp32")
        on_gpu = Resources(device, "fp32", 1)
        calls = itertools.count()

        def pause() -> None:
            if next(calls) == 11:
                raise KeyboardInterrupt

        with gpu.stream(device):
            built = experiment(tree, 400)
            state = fit.start(built, on_gpu)
            try:
                list(fit.sgd(built, state, on_gpu, pause=pause))
            except KeyboardInterrupt:
                place, file = state.place, io.BytesIO()
            torch.save(state.to_dict(), file)
            file.seek(0)
            saved = torch.load(file, map_location="cpu", weights_only=True)
            built = experiment(tree, 400)
            state = fit.start(built, on_gpu)
            state.restore(saved)
            list(fit.sgd(built, state, on_gpu))
            weights = {key: value.cpu() for key, value in state.model.state_dict().items()}
        found = Trained(state.records, weights, state.captured)
        return f"stopped {place}; weights differ by {difference(found, whole):.1e}"

    yield "equals a run that was not stopped", interrupt


def stop(device: str, quick: bool) -> Questions:
    """Ask how long a signal waits for steps that are queued on the GPU."""

    def wait() -> str:
        waits = []

        def pause() -> None:
            began = time.perf_counter()
            torch.cuda.synchronize(device)
            waits.append(time.perf_counter() - began)
            if len(waits) > 20:
                raise KeyboardInterrupt

        on_gpu = Resources(device, "bf16", 1)
        built = experiment({"model": {"name": "wrn", "depth": 28, "widen": 10}}, 6400)
        with gpu.stream(device):
            try:
                list(fit.sgd(built, fit.start(built, on_gpu), on_gpu, pause=pause))
            except KeyboardInterrupt:
                pass
        step = sorted(waits)[len(waits) // 2]
        return f"{1000 * step * gpu.MAX_QUEUED_STEPS:.0f} ms for WRN-28-10 with a full queue"

    yield "a signal takes effect within", wait


def rate(device: str, name: str, images: int, precision: str, **keys: Any) -> str:
    """Return the images per second of the last of three epochs."""
    graphs = keys.pop("graphs", True)
    torch.cuda.reset_peak_memory_stats(device)
    tree = {"model": {"name": name}, "epochs": 3, **keys}
    trained = train(device, tree, images, precision, graphs=graphs)
    last = trained.records[-1]
    memory = torch.cuda.max_memory_reserved(device) / 2**30
    return (
        f"{last['images_per_second']:>9,.0f} images/s, captured {trained.captured}, "
        f"{memory:.2f} GiB, first epoch {trained.records[0]['seconds']:.1f} s"
    )


def speed(device: str, quick: bool) -> Questions:
    """Ask for training rates by precision, graphs, memory format and torch.compile."""
    images = 2560 if quick else 25600
    for name, precision in itertools.product(MODELS[: 1 if quick else 4], ("fp32", "bf16")):

        def measure(name: str = name, precision: str = precision, **keys: Any) -> str:
            return rate(device, name, images, precision, **keys)

        def measure_channels_first(measure: Callable[[], str] = measure) -> str:
            with channels_first():
                return measure()

        yield f"{name} {precision} CUDA graphs", measure
        yield f"{name} {precision} eager", lambda measure=measure: measure(graphs=False)
        yield f"{name} {precision} channels first", measure_channels_first
        if name in ("wrn", "resnet18") and not quick:
            yield f"{name} {precision} compile", lambda measure=measure: measure(compile="true")


def train_in_a_worker(device: str, name: str, precision: str, images: int) -> tuple[float, float]:
    """Return when the second of three epochs began, and when the third ended."""
    gpu.set_arithmetic()
    records = train(device, {"model": {"name": name}, "epochs": 3}, images, precision).records
    ended = time.time()
    return ended - sum(record["seconds"] for record in records[1:]), ended


def workers(device: str, quick: bool) -> Questions:
    """Ask how fast several processes share one GPU, as under the launcher `packed`."""
    images = 2560 if quick else 25600
    for name, number in itertools.product(("wrn", "mlp"), (1, 2) if quick else (1, 2, 4, 8)):

        def together(name: str = name, number: int = number) -> str:
            with ProcessPoolExecutor(number, mp_context=get_context("spawn")) as pool:
                jobs = [(device, name, "bf16", images)] * number
                spans = list(pool.map(train_in_a_worker, *zip(*jobs, strict=True)))
            seconds = max(end for _, end in spans) - min(began for began, _ in spans)
            return f"{2 * images * number / seconds:>9,.0f} images/s, evaluation included"

        yield f"{number} x {name} bf16", together


def exact(device: str, quick: bool) -> Questions:
    """Ask how exact fits compare with those of the CPU."""
    models = [
        {"name": "kernel", "gamma": 1e-3},
        {"name": "kernel", "features": "gabor", "ridge": 1e-3},
        {"name": "kernel", "kernel": "linear", "features": "random_conv", "ridge": 1e-2}
        | {"filters": 500 if quick else 2000},
        {"name": "theorem1"},
    ]
    cases = ((device, "fp64"), (device, "fp32"), ("cpu", "fp32"))
    for model, (where, precision) in itertools.product(models, cases):

        def fit_exactly(model: Tree = model, where: str = where, precision: str = precision) -> str:
            built = experiment({"model": model, "preprocess": {"name": "scale"}}, 4000)
            on = Resources(where, precision, cpu_count())
            torch.set_num_threads(on.threads)
            began = time.perf_counter()
            ((record, fit),) = solve.solve([built], on)
            report = {key: f"{value:.1e}" for key, value in fit.report.items()}
            loss = record["test_loss"]
            return f"{time.perf_counter() - began:.1f} s, test loss {loss:.10g}, {report}"

        yield f"{' '.join(map(str, model.values()))} {where} {precision}", fit_exactly


def two(device: str, quick: bool) -> Questions:
    """Ask whether runs of one process on two GPUs are equal."""

    def alternate() -> str:
        if torch.cuda.device_count() < 2:
            return "not asked: there is one GPU"
        tree = {"model": {"name": "mlp"}, **SMALL_LR}
        first, second = (train(where, tree, 1400, "fp32") for where in ("cuda:0", "cuda:1"))
        return f"captured {second.captured}, weights differ by {difference(second, first):.1e}"

    yield "cuda:1 after cuda:0", alternate


SECTIONS: dict[str, Callable[[str, bool], Questions]] = {
    section.__name__: section
    for section in (machine, graph, many, resume, stop, exact, two, speed, workers)
}


if __name__ == "__main__":
    main()

"""Sweeps and their results from Python: start runs, open one, read the tables of many."""

from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ..checks import check_earlier_results
from ..cli import as_typed
from ..config import Config, parse
from ..dataset import Split
from ..experiment import Experiment, assemble, build_model
from ..experiment import load as load_data
from ..launchers.launcher import ANALYSIS
from ..network import Network
from ..run import sweep as execute_sweep
from ..store import checkpoint, metrics
from ..store.rundir import RunDir

collection, tables = (import_module(f"{ANALYSIS}.{name}") for name in ("runs", "tables"))


def sweep(*overrides: str, **keys: Any) -> pd.DataFrame:
    """Execute what `python -m randlabels.run -m OVERRIDES` does, and return `runs` of its folder.

    >>> tiny = ["dataset=digits", "dataset.train_size=64", "model=mlp", "model.hidden=[8]"]
    >>> tiny += ["keep=[-1,1]", "examples=true", "hydra/launcher=basic"]
    >>> table = randlabels.sweep(*tiny, corrupt=[0.0, 1.0], epochs=2)
    2 runs, 2 of them to do
    ...
    >>> table[["corrupt", "state"]].values.tolist()
    [[0.0, 'done'], [1.0, 'done']]

    overrides: as on the command line, such as "model=mlp,wrn" or "model.depth=10".
    keys: a value, or values to sweep over, such as `seed=range(5)`. A value that is a list needs
        another list around it, or is an override: "keep=[-1,59]".

    A finished run is not repeated; one that fails has the state "failed". In a script, the
    launcher packed needs the guard `if __name__ == "__main__":`, as multiprocessing does.

    Raises:
        ValueError: a run is refused, with the sentence of the command line; nothing was started.
        KeyboardInterrupt: Ctrl-C; the same call continues each run from its last checkpoint.
    """
    given = list(overrides)
    for key, value in keys.items():
        several = hasattr(value, "__iter__") and not isinstance(value, str)
        given.append(f"{key}={','.join(map(as_typed, value)) if several else as_typed(value)}")
    return pd.concat([runs(folder) for folder in execute_sweep(given)], ignore_index=True)


def runs(dir: str | Path) -> pd.DataFrame:
    """Return one row per run under a folder, with the columns of runs.csv.

    >>> randlabels.runs("runs/default")[["corrupt", "seed", "state"]].values.tolist()
    [[0.0, 0, 'done'], [1.0, 0, 'done']]

    FileNotFoundError if the folder holds no run.
    """
    return pd.DataFrame(tables.runs(collection.read(Path(dir))))


def epochs(dir: str | Path) -> pd.DataFrame:
    """Return one row per run and epoch under a folder, with the columns of epochs.csv.

    >>> randlabels.epochs("runs/default")[["corrupt", "epoch"]].values.tolist()
    [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]

    FileNotFoundError if the folder holds no run.
    """
    return pd.DataFrame(collection.read(Path(dir)).epochs().to_pandas())


def examples(dir: str | Path) -> pd.DataFrame:
    """Return one row per run and training image, for the runs under a folder with examples=true.

    >>> table = randlabels.examples("runs/default")
    >>> table.groupby("run_id", sort=False)["changed"].mean().round(1).tolist()
    [0.0, 0.9]

    Its columns are run_id and those of examples.parquet (docs/examples.md). Epochs that a run did
    not evaluate are NaN. FileNotFoundError if the folder holds no such run.
    """
    every = [RunDir(Path(folder)) for folder in collection.read(Path(dir)).runs["folder"]]
    found = [run for run in every if run.examples.is_file()]
    if not found:
        raise FileNotFoundError(f"{dir} must hold runs with examples.parquet; use examples=true")
    frames = [pd.read_parquet(run.examples) for run in found]
    table = pd.concat(frames, keys=[run.run_id for run in found], names=["run_id", None])
    return table.reset_index("run_id").reset_index(drop=True)


class Run:
    """A read-only view of a run's folder, `runs/<name>/<run id>`, in any state.

    >>> run_id = randlabels.runs("runs/default")["run_id"][0]
    >>> run = randlabels.load(f"runs/default/{run_id}")
    >>> run.state, run.config["model"]["hidden"], run.kept
    ('done', [8], [-1, 1])
    >>> images, labels = run.test.images, run.test.true  # (355, 1, 8, 8) uint8, (355,) int64
    >>> accuracy = (run.model()(images).argmax(1) == labels).double().mean().item()
    >>> accuracy == run.metrics["test_acc"].tolist()[-1]
    True

    path: the folder.
    config: the resolved config as nested plain values, in the shape of conf/.

    ValueError if the folder is not that of a run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        self._run = RunDir(self.path)
        try:
            self.config = yaml.load(self._run.config.read_bytes(), Loader=yaml.CSafeLoader)
            if not self.config.keys() >= {"corrupt", "model", "epochs"}:
                raise ValueError("it was not written by randlabels")
        except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
            raise ValueError(
                f"{path} must be the folder of a run, with its config.yaml; `runs` lists them"
            ) from error

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def state(self) -> str:
        """One of planned, running, interrupted, failed, diverged and done, as of now."""
        return self._run.state()

    @property
    def metrics(self) -> pd.DataFrame:
        """A row per epoch with the keys of metrics.jsonl, float64; NaN where not measured."""
        records, _ = metrics.read(self._run.metrics)
        frame = pd.DataFrame(records, columns=None if records else list(metrics.KEYS))
        return frame.astype(float).astype({"epoch": int})

    @property
    def examples(self) -> pd.DataFrame:
        """A row per training image, with the columns of examples.parquet (docs/examples.md).

        ValueError if the run has none yet, or was launched without examples=true.
        """
        if not self._run.examples.is_file():
            raise ValueError(f"{self._run.examples} must exist; the run needs examples=true")
        return pd.read_parquet(self._run.examples)

    @property
    def kept(self) -> list[int]:
        """Epochs (0-based) whose weights were kept; -1 stands for the initial ones."""
        epochs = range(-1, self.config["epochs"])
        return [epoch for epoch in epochs if self._run.weights(epoch).is_file()]

    @property
    def train(self) -> Split:
        """Images (N, C, H, W) uint8, labels and true labels (N,) int64, changed (N,) bool.

        ValueError if the data are missing, or not those of the run; they are not downloaded.
        """
        return self._experiment.train

    @property
    def test(self) -> Split:
        """As `train`. Its labels are corrupted in the same way; `test_acc` uses the true ones."""
        return self._experiment.test

    def model(self, epoch: int | None = None) -> Network:
        """Return the network after a kept epoch, or of the last checkpoint, in eval mode.

        It maps stored images (B, C, H, W), 0 to 255, to logits (B, K) float32 as the run does. It
        is on the CPU; `.to("cuda")` moves it. Its parameters require gradients.

        Raises:
            ValueError: the epoch was not kept, the run has no weights, a file is damaged or
                hostile, or the data are missing.
            RuntimeError: the weights belong to another version of the model.
        """
        config, kept = self._typed, self.kept
        if config.exact:
            raise ValueError(f"{self.path} must be of a trained model; an exact fit has no weights")
        if epoch is not None and epoch not in kept:
            known = ", ".join(map(str, kept)) or "no epoch, which gives the last checkpoint"
            raise ValueError(f"epoch={epoch} must be one that {self.path} kept; use {known}")
        file = self._run.checkpoint if epoch is None else self._run.weights(epoch)
        if (saved := checkpoint.load(file, config.hash)) is None:
            raise ValueError(f"{file} must exist; the command of the run writes it")
        model = build_model(config, load_data(config.dataset))
        checkpoint.require_like(saved.get("model") or {}, model.state_dict(), "model")
        model.load_state_dict(saved["model"])
        return Network(self._experiment, model, saved["precision"], saved["device"])

    @cached_property
    def _typed(self) -> Config:
        """The config, with the folder in which it was found."""
        config = parse(self.config)
        config.out, config.name = str(self.path.parent.parent), self.path.parent.name
        config.dataset.download = False
        if config.run_id != self.path.name:
            raise ValueError(f"{self.path} must be named as its config.yaml says, {config.run_id}")
        return config

    @cached_property
    def _experiment(self) -> Experiment:
        experiment = assemble(self._typed)
        labels, remedy = experiment.corruption, "restore the data that the run was computed on"
        check_earlier_results(self._typed, experiment.data_sha256, labels, remedy)
        return experiment


load = Run

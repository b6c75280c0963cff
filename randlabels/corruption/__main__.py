"""Show what a corruption does: `python -m randlabels.corruption KIND -p P [KEY=VALUE …]`.

Prints the stated transition matrix and the one drawn over the whole training set, for up to 16
classes, and the share of labels that changed. With `--save FILE`, writes the corrupted and the true
labels of both splits.
"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from ..cli import compose, in_one_sentence
from ..config import Config
from ..console import ignore_closed_pipe, print_table
from ..experiment import corrupt_labels, load, source_of
from ..store.files import write_atomic
from .base import frequencies
from .label_file import encode_labels
from .pixels import PixelCorruption

MAX_MATRIX_CLASSES = 16  # of a matrix that is printed; larger ones do not fit a terminal


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.exit(f"Error: {message}; use {self.prog} KIND -p P [KEY=VALUE …]")


def main() -> None:
    """Compose, draw and print; errors of the user end in one sentence."""
    parser = _Parser(prog="python -m randlabels.corruption", description=__doc__)
    parser.add_argument("kind", help="an option of the group corruption, such as uniform")
    parser.add_argument("-p", "--prob", type=float, required=True, help="`corrupt`, 0 to 1")
    parser.add_argument("overrides", nargs="*", help="dataset=mnist, corruption.seed=1 and so on")
    parser.add_argument("--save", type=Path, metavar="FILE", help="a new .npz or .csv file")
    given = parser.parse_intermixed_args()
    choices = [f"corruption={given.kind}", f"corrupt={given.prob}", *given.overrides]
    try:
        config = compose(choices)
        show(config)
        if given.save:
            save(config, given.save)
    except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"Error: {in_one_sentence(error)}")


def save(config: Config, file: Path) -> None:
    """Write the corrupted and the true labels of both whole splits.

    ValueError if the corruption changes no labels, or if the file has another ending, no folder,
    or other content, which runs may depend on.
    """
    if file.suffix not in (".npz", ".csv"):
        raise ValueError(f"--save {file} must end in .npz or .csv; rename it")
    if not file.parent.is_dir():
        raise ValueError(f"--save {file} must be in an existing folder; create {file.parent}")
    if config.alters_images:
        raise ValueError(
            f"--save {file} must be left out for corruption={config.corruption.name}, which "
            "changes images and no labels"
        )
    data = load(config.dataset)
    arrays = {}
    for name, split in (("train", data.train), ("test", data.test)):
        arrays[name] = corrupt_labels(config, data, name).numpy()
        arrays[f"{name}_true"] = split.labels.numpy()
    content = encode_labels(file.suffix, arrays)
    if not file.exists():
        write_atomic(file, content)
    elif file.read_bytes() != content:
        raise ValueError(
            f"--save {file} must be a new file, and exists with other content; remove it, or "
            "choose another name"
        )
    print(f"Labels saved: {file}")


def show(config: Config) -> None:
    """Print what a run's corruption does to the labels or images of the whole training set."""
    data = load(config.dataset)
    source = source_of(config, data, "train")
    true, given = source.labels, corrupt_labels(config, data, "train").numpy()
    if isinstance(config.corruption, PixelCorruption):
        altered = config.corruption.altered(source, config.corrupt)
        print(f"Images altered: {altered.mean():.4%} of {len(true):,}")
    elif data.classes <= MAX_MATRIX_CLASSES:
        stated = np.asarray(config.corruption.transition(source, config.corrupt))
        shape = data.classes, data.classes
        if stated.shape != shape or not np.allclose(stated.sum(1), 1):
            raise ValueError(
                f"transition of corruption={config.corruption.name} must return {shape}, with rows "
                f"that sum to 1, and has returned the shape {stated.shape}"
            )
        drawn = frequencies(true, given, data.classes)
        title = f"{config.corruption.name}, p = {config.corrupt:g}, {config.dataset.name}"
        columns = ["true", *map(str, range(data.classes))]
        for name, matrix in (("stated", stated), ("drawn", drawn)):
            rows = [[str(i), *(f"{share:.3f}" for share in row)] for i, row in enumerate(matrix)]
            print_table(f"{title}: {name} share of each given label", columns, rows)
    print(f"Labels changed: {np.mean(given != true):.4%} of {len(true):,}")


if __name__ == "__main__":
    with ignore_closed_pipe():
        main()

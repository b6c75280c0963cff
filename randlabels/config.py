"""The typed config of one run: from Hydra's tree of values to dataclasses with checked ranges."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from .registry import DEFAULTS, code_sha256, import_files, options
from .schema import AT_LEAST_1, PROBABILITY, Rule, check_rules, one_of, parse_dataclass, to_plain
from .store.rundir import NOT_HASHED, SCHEMA, RunDir, device_kind

if TYPE_CHECKING:
    from .augment import Augment
    from .corruption import Corruption
    from .dataset import Dataset
    from .loss import Loss
    from .model import Model
    from .optimizer import Optimizer
    from .preprocess import Preprocess
    from .schedule import Schedule


RULES: dict[str, Rule] = {  # of keys whose value is checked alone
    "corrupt": PROBABILITY,
    "seed": (lambda seed: 0 <= seed < 2**63, "between 0 and 2^63-1"),
    **dict.fromkeys(("epochs", "batch_size", "eval_every"), AT_LEAST_1),
    "sensitivity": (lambda n: n >= 0, "0 or more training images"),
    "fit_threshold": (lambda share: 0 < share <= 1, "above 0 and at most 1"),
    "checkpoint_every": (lambda time: 0 <= time < math.inf, "0 or more seconds"),
    "time_limit": (lambda time: time is None or 0 < time < math.inf, "above 0 seconds, or null"),
    "on_failure": one_of("continue", "stop"),
    "device": (re.compile(r"auto|cpu|cuda(:\d+)?").fullmatch, "auto, cpu, cuda or cuda:N"),
    "precision": one_of("auto", "fp32", "bf16", "fp64"),
    "compile": one_of("auto", "true", "false"),
    "threads": (re.compile(r"auto|0*[1-9]\d*").fullmatch, "auto or a whole number of at least 1"),
}


@dataclass(kw_only=True)
class Settings:
    """The top-level keys; conf/config.yaml says what each means."""

    corrupt: float = 0.0
    seed: int = 0
    epochs: int = 300
    batch_size: int = 128
    eval_every: int = 1
    sensitivity: int = 0
    examples: bool = False
    keep: list[int] = field(default_factory=list)

    device: str = "auto"
    precision: str = "auto"
    compile: str = "auto"
    threads: str = "auto"

    imports: list[str] | None = None
    out: str = "runs"
    name: str | None = None

    force: bool = False
    plan: bool = False
    checkpoint_every: float = 10.0
    time_limit: float | None = None
    on_failure: str = "continue"
    verbose: bool = False
    fit_threshold: float = 0.999

    def check_ranges(self) -> None:
        """Raise ValueError for the first value that is out of range."""
        self.corrupt += 0.0  # turns -0.0 into 0.0
        self.compile = self.compile.lower()  # the text of true is True
        check_rules(self, RULES)
        if any(not -1 <= epoch < self.epochs for epoch in self.keep):
            raise ValueError(
                f"keep={self.keep} must list epochs from -1, the initial weights, to "
                f"{self.epochs - 1}, the last of epochs={self.epochs}"
            )
        if self.name is not None and not re.fullmatch(r"(?!\.)[A-Za-z0-9._-]{1,100}", self.name):
            raise ValueError(
                f"name={self.name!r} must be a safe folder name: up to 100 letters, digits, "
                "'.', '_' and '-', not starting with '.'"
            )
        if not self.out or "\0" in self.out:
            raise ValueError(f"out={self.out!r} must be the path of a folder")


@dataclass(kw_only=True)
class Config(Settings):
    """Everything that defines one run."""

    dataset: Dataset
    corruption: Corruption
    model: Model
    optimizer: Optimizer
    loss: Loss
    schedule: Schedule
    preprocess: Preprocess
    augment: Augment

    def __post_init__(self) -> None:
        self.check_ranges()
        for group in DEFAULTS:
            getattr(self, group).pin_files()
        if self.precision == ("bf16" if self.exact else "fp64"):
            others = "fp32 or fp64" if self.exact else "fp32 or bf16"
            raise ValueError(
                f"precision={self.precision} must be auto, {others} for model={self.model.name}"
            )
        if self.exact:
            self._refuse_training_keys()
        elif self.optimizer.lr is None:
            if self.model.lr is None:
                raise ValueError(
                    f"optimizer.lr=null must be a number for model={self.model.name}, which has no "
                    "learning rate; set optimizer.lr"
                )
            self.optimizer.lr = self.model.lr
        if self.alters_images and self.augment.name != "none":
            raise ValueError(
                f"corruption={self.corruption.name} fixes each image for the whole fit, which "
                f"augment={self.augment.name} would undo; use augment=none"
            )

    @property
    def exact(self) -> bool:
        """Whether the model is solved, not trained."""
        from .model import ExactModel  # imports torch, which a sweep's parent needs later

        return isinstance(self.model, ExactModel)

    def _refuse_training_keys(self) -> None:
        identity = self.identity()
        keys = ("epochs", "batch_size", "eval_every", "sensitivity", "compile")
        given = [f"{key}={identity[key]}" for key in keys if key in identity]
        for group in ("optimizer", "loss", "schedule", "augment"):
            for key, value in identity.get(group, {}).items():
                given.append(f"{group}={value}" if key == "name" else f"{group}.{key}={value}")
        if self.model.lr is not None:
            given.append(f"model.lr={self.model.lr}")
        if self.keep:
            given.append(f"keep={self.keep}")
        if self.examples:
            given.append("examples=true")
        if given:
            raise ValueError(
                f"{given[0]} has no meaning for model={self.model.name}, which is solved and not "
                "trained; leave it out"
            )

    @property
    def alters_images(self) -> bool:
        """Whether the corruption changes images, and no labels."""
        from .corruption.pixels import PixelCorruption  # imports torch, see `exact`

        return isinstance(self.corruption, PixelCorruption)

    def identity(self) -> dict[str, Any]:
        """Return plain values of the keys that can change the numbers and are not the defaults.

        A key added later thus leaves earlier folders valid. A device has no index, and a file, also
        one that defines an option, is given by the sha256 of its content.
        """
        identity = _differing(self, prefix="")
        if "device" in identity:
            identity["device"] = device_kind(self.device)
        for group, default in DEFAULTS.items():
            option = getattr(self, group)
            keys = _differing(option, prefix=f"{group}.")
            if option.name != default:
                keys["name"] = option.name
            if sha256 := code_sha256(type(option)):
                keys["code_sha256"] = sha256
            if keys:
                identity[group] = keys
        return identity

    @property
    def hash(self) -> str:
        """sha256 (64 hex digits) of the identity and of the schema version."""
        text = json.dumps({"schema": SCHEMA, **self.identity()}, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def run_id(self) -> str:
        """`<model>-<dataset>-<corruption>-p<corrupt>-s<seed>-<8 hex of the hash>`, a safe name."""
        options = f"{self.model.name}-{self.dataset.name}-{self.corruption.name}"
        text = f"{options}-p{self.corrupt:g}-s{self.seed}-{self.hash[:8]}"
        return re.sub(r"[^A-Za-z0-9._-]", "_", text)

    @property
    def folder(self) -> Path:
        """`<out>/<name>`, which holds the runs of one sweep and its plan."""
        return Path(self.out).expanduser() / (self.name or "default")

    @property
    def run(self) -> RunDir:
        return RunDir(self.folder / self.run_id)

    def tree(self) -> dict[str, Any]:
        """Return the resolved config as nested plain values, in the shape of conf/."""
        tree = {f.name: getattr(self, f.name) for f in dataclasses.fields(Settings)}
        for group in DEFAULTS:
            option = getattr(self, group)
            tree[group] = {"name": option.name, **dataclasses.asdict(option)}
            if sha256 := code_sha256(type(option)):
                tree[group]["code_sha256"] = sha256
        return tree


def _differing(options: Any, prefix: str) -> dict[str, Any]:
    """Return the hashed fields of a dataclass instance that differ from their defaults."""
    keys = {}
    for f in dataclasses.fields(options):
        if f.name in DEFAULTS or prefix + f.name in NOT_HASHED:
            continue
        default = f.default_factory() if callable(f.default_factory) else f.default
        if (value := getattr(options, f.name)) != default:
            keys[f.name] = value
    return keys


def parse(tree: Mapping[str, Any], sweep: str | None = None) -> Config:
    """Return the typed config of a tree of plain values; ValueError names a wrong key and its rule.

    sweep: the committed sweep that the run belongs to; it names the folder by default.
    """
    values = {key: value for key, value in tree.items() if key not in DEFAULTS}
    values["imports"] = list(import_files(values.get("imports")))
    settings = parse_dataclass(Settings, values, prefix="")
    if settings.name is None:
        settings.name = (sweep or "default").replace("/", "-")
    chosen = {}
    for group in DEFAULTS:
        keys = dict(tree.get(group) or {})
        name = keys.pop("name", DEFAULTS[group])
        known = options(group)
        if name not in known:
            raise ValueError(f"{group}={name} is unknown; use {', '.join(sorted(known))}")
        found = code_sha256(known[name])
        if (pinned := keys.pop("code_sha256", found)) != found:
            raise ValueError(
                f"{group}.code_sha256={pinned} must be that of the file of {group}={name}, which "
                f"is {found}; restore the file, or launch again"
            )
        chosen[group] = parse_dataclass(known[name], keys, prefix=f"{group}.")
    return Config(**vars(settings), **chosen)


def parse_composed(tree: DictConfig, sweep: str | None = None) -> Config:
    """Return the typed config of a tree that Hydra composed; see `parse`."""
    values = to_plain(tree)
    for group in DEFAULTS:
        keys = values.get(group)
        if not isinstance(keys, dict) or "name" not in keys:
            raise ValueError(
                f"{group}={keys} must have a name, which says whose keys these are; add the line "
                f"`name: X` to the chosen file of the group {group}"
            )
    return parse(values, sweep)

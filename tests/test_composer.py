"""The composer: the same trees and the same errors as Hydra's own composition, faster."""

from pathlib import Path

import pytest
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from randlabels.cli import CONF, prepare_hydra
from randlabels.config import parse_composed
from randlabels.launchers.grid import Composer

LISTS = [
    [],
    ["corrupt=0.5"],
    ["seed=3", "seed=4"],
    ["model=mlp", "model.hidden=[8,16]", "corrupt=1"],
    ["model.hidden=[8]", "model=mlp"],  # a key of the option chosen after it
    ["model=mlp", "model.hidden=[]"],
    ["dataset=digits", "dataset.train_size=64", "dataset.test_size=null"],
    ["dataset.root='a folder, with \"quotes\"'", 'name="it\'s"'],
    ["dataset.download=false", "force=True", "plan=on"],
    ["optimizer.lr=1e-3", "optimizer.weight_decay=0", "corrupt=-0.0"],
    ["optimizer.lr=${model.lr}", "model.lr=0.3"],
    ["name=p${corrupt}-${model.name}", "corrupt=0.25"],
    ["schedule=cosine", "optimizer=adamw", "augment=crop_flip", "preprocess=scale"],
    ["schedule=step", "schedule.milestones=[1,2]"],
    ["sweep=demo", "seed=2"],
    ["sweep=paper/figure1a", "model.lr=0.5", "epochs=3"],
    ["model=kernel"],
    ["model=mlp", "+model.nosuch=1"],
    ["+nosuch=1", "seed=1"],
    ["++seed=5", "seed=6"],
    ["seed=6", "++seed=5"],
    ["~augment"],
    ["~model.lr", "seed=1"],
    ["optimizer={lr:0.5,nesterov:true}"],
    ["hydra.job.name=x", "seed=1"],
    ["name=''", "out='a=b'"],
]


@pytest.fixture
def loaded() -> tuple[ConfigLoader, DictConfig]:
    prepare_hydra()
    GlobalHydra.instance().clear()
    path = create_config_search_path(str(CONF))
    hydra = Hydra.create_main_hydra2("randlabels", path)
    master = hydra.compose_config("config", [], run_mode=RunMode.MULTIRUN)
    return hydra.config_loader, master


def compose_with_hydra(
    loader: ConfigLoader, master: DictConfig, overrides: list[str]
) -> DictConfig:
    """Return the tree that Hydra composes, without the key `hydra`."""
    composed = loader.load_sweep_config(master, overrides)
    keys = [key for key in composed if key != "hydra"]
    return OmegaConf.masked_copy(composed, keys)


@pytest.mark.slow
def test_trees_equal_hydras_for_every_kind_of_override(
    loaded: tuple[ConfigLoader, DictConfig],
) -> None:
    composer = Composer(*loaded)
    wanted = [compose_with_hydra(*loaded, overrides) for overrides in LISTS]
    pairs = list(zip(LISTS, wanted, strict=True))
    for overrides, expected in pairs + pairs:  # the second time from the cache
        tree, _ = composer.tree(overrides)
        assert OmegaConf.to_yaml(tree) == OmegaConf.to_yaml(expected), overrides
        resolved = [OmegaConf.to_container(t, resolve=True) for t in (tree, expected)]
        assert repr(resolved[0]) == repr(resolved[1]), overrides  # 1 is not 1.0, nor True


@pytest.mark.parametrize("override", ["nosuch=1", "model.nosuch=1", "model=nosuch", "seed.x=1"])
def test_errors_equal_hydras(loaded: tuple[ConfigLoader, DictConfig], override: str) -> None:
    with pytest.raises(Exception) as expected:
        compose_with_hydra(*loaded, [override])
    with pytest.raises(type(expected.value)) as found:
        Composer(*loaded).tree([override])
    assert str(found.value) == str(expected.value)


def test_each_choice_of_options_is_composed_once_and_values_do_not_leak(
    loaded: tuple[ConfigLoader, DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    loader, master = loaded
    calls = []
    real = loader.load_sweep_config

    def record_and_load(master: DictConfig, overrides: list[str]) -> DictConfig:
        calls.append(overrides)
        return real(master, overrides)

    monkeypatch.setattr(loader, "load_sweep_config", record_and_load)
    composer = Composer(loader, master)
    for model in ("mlp", "wrn"):
        for seed in range(50):
            tree, _ = composer.tree([f"model={model}", f"seed={seed}", "model.lr=0.5"])
            assert (tree.seed, tree.model.name, tree.model.lr) == (seed, model, 0.5)
    assert calls == [["model=mlp"], ["model=wrn"]]
    tree, _ = composer.tree(["model=mlp"])
    assert (tree.seed, tree.model.lr) == (0, 0.01)


def test_committed_sweep_names_the_folder(loaded: tuple[ConfigLoader, DictConfig]) -> None:
    composer = Composer(*loaded)
    config = parse_composed(*composer.tree(["sweep=paper/figure1a", "seed=2"]))
    assert config.folder == Path("runs") / "paper-figure1a"

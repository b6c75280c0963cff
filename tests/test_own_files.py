"""Files of own options: named once by `imports`, found and versioned; mistakes are reported."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

import randlabels.model
from analysis.collect import collect, warnings
from randlabels import registry
from randlabels.config import parse

from .conftest import BASIC, Cli
from .own import DIGITS, Write, own_network

SHORT = ["dataset=digits", "dataset.train_size=64", "epochs=1"]


def test_mistake_ends_the_command_with_a_traceback(write: Write, cli: Cli, tmp_path: Path) -> None:
    config = own_network(write, "nn.Flatten(1, nope)")
    with pytest.raises(NameError, match="nope"):
        cli("dataset=digits", "model=linear", f"model.name={config.model.name}", "~model.bias")
    assert not (tmp_path / "runs").exists()


def test_class_without_a_method_of_its_base_is_a_type_error(write: Write) -> None:
    write('@dataclass\nclass Own(Model):\n    name: ClassVar[str] = "own"\n')
    with pytest.raises(TypeError, match="abstract class Own .*build"):
        parse({"model": {"name": "own"}})


def test_class_that_is_no_dataclass_is_a_type_error(write: Write) -> None:
    write('class Own(Model):\n    name: ClassVar[str] = "own"\n')
    with pytest.raises(TypeError, match=r"class Own in .*own.py must be a dataclass; put @datac"):
        parse(DIGITS)


def test_changed_file_is_another_run_and_the_tables_warn_of_both(
    write: Write, cli: Cli, tmp_path: Path
) -> None:
    layers = "nn.Flatten(), nn.Linear(64, 10)"
    first = own_network(write, layers)
    tree, id_of_first = first.tree(), first.run_id
    assert parse(tree) == first
    assert cli("model=own", *SHORT).code == 0
    second = own_network(write, layers + ", nn.Identity()")
    assert second.tree()["model"].keys() == tree["model"].keys() and second.run_id != id_of_first
    with pytest.raises(ValueError, match=f"^model.code_sha256={'.' * 64} must be that of the file"):
        parse(tree)
    assert cli("-m", "model=own,linear", *SHORT, BASIC).code == 0
    found, _ = collect(tmp_path / "runs")
    assert len(found.runs) == 3 and "model.code_sha256" in found.swept
    sentence = "the tables mix 2 versions of the file of model=own; see model.code_sha256"
    assert [s for s in warnings(found) if "versions" in s] == [sentence]


def test_model_without_a_learning_rate_asks_for_one(write: Write) -> None:
    code = "    def build(self, image, classes, rng): ...\n"
    write(f'@dataclass\nclass Own(Model):\n    name: ClassVar[str] = "own"\n{code}')
    with pytest.raises(ValueError, match="model=own, which has no learning rate; set optimizer.lr"):
        parse({"model": {"name": "own"}})
    assert parse({"model": {"name": "own"}, "optimizer": {"lr": 0.5}}).optimizer.lr == 0.5


@pytest.mark.parametrize("name", ["mlp", "own"])
def test_name_of_two_classes_is_refused_in_one_sentence(write: Write, cli: Cli, name: str) -> None:
    code = '@dataclass\nclass {}(Model):\n    name: ClassVar[str] = "{}"\n'
    write(code.format("First", "own") + code.format("Second", name))
    first = r"MLP in \S+mlp.py" if name == "mlp" else r"First in \S+own.py"
    outcome = cli("model=own", "dataset=digits")
    assert outcome.code == 1 and re.fullmatch(
        rf"Error: model={name} is both class {first} and class Second in \S+own.py; give one "
        "another name\n",
        outcome.err,
    )


@pytest.mark.parametrize("line", ["import nowhere", "nn.Linea", "class Draft(:", "int('x')"])
def test_file_that_cannot_be_imported_is_a_traceback(write: Write, cli: Cli, line: str) -> None:
    write(line)
    with pytest.raises(ImportError, match="own.py cannot be imported: ") as error:
        cli("model=mlp")
    assert error.value.__cause__ is not None


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("[nowhere.py]", "imports=/.*/nowhere.py must be an existing file .py; "),
        ("[notes.txt]", "imports=/.*/notes.txt must be an existing file .py; "),
        ("[json.py]", "imports=/.*/json.py has the name of the Python module json; rename the "),
        ("5", r"imports=5 must be Python files; use imports=\[my_parts.py\]"),
        ("a.py,b.py", "imports=a.py,b.py must be one list; use imports="),
    ],
)
def test_imports_that_are_not_own_files_are_refused(
    value: str, sentence: str, write: Write, cli: Cli, tmp_path: Path
) -> None:
    for name in ("notes.txt", "json.py"):
        (tmp_path / name).touch()
    outcome = cli("-m", f"imports={value}", "model=mlp")
    assert outcome.code == 1 and re.match(f"Error: {sentence}", outcome.err.replace("*", ""))


def test_option_of_an_own_file_needs_no_file_of_keys(write: Write) -> None:
    own_network(write, "nn.Flatten(), nn.Linear(64, 10)")
    assert list(registry.imported_options()) == [("model", "own", {"name": "own", "lr": 0.1})]


def test_file_in_the_package_is_found_and_drafts_are_not(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_network(write, "nn.Flatten(), nn.Linear(64, 10)")
    (tmp_path / "package").mkdir()
    for name in ("_draft.py", "own.py"):
        shutil.copy(tmp_path / "own.py", tmp_path / "package" / name)
    monkeypatch.setattr(randlabels.model, "__path__", [str(tmp_path / "package")])
    registry._code_sha256.clear()
    registry.options.cache_clear()
    assert list(registry.options("model")) == ["own"]
    del sys.modules["randlabels.model.own"], vars(randlabels.model)["own"]

"""The entry: `python -m randlabels.run KEY=VALUE …` for one run, with `-m` for a sweep."""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
from pathlib import Path

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from . import launchers
from .cli.help import known_keys, launcher_keys, options_help
from .config import parse
from .machine import process, stopping
from .registry import DEFAULTS, unnamed, without_file
from .schema import plain

HERE = Path(__file__).parent
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"
"""The config folder: inside the package once installed, beside it in a checkout."""


def main() -> None:
    """Compose, check, execute; whatever the user got wrong ends as one sentence."""
    for flag in ("-m", "--multirun"):  # Hydra takes it before or after all overrides only
        if flag in sys.argv[2:]:
            sys.argv.remove(flag)
            sys.argv.insert(1, flag)
    process.prepare()
    stopping.begin()
    show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing several lines
    try:
        prepare_hydra()
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    except KeyboardInterrupt:
        print(
            "\nInterrupted. The same command goes on from each run's last checkpoint.",
            file=sys.stderr,
        )
        sys.exit(130)
    except BrokenPipeError:  # who read the output has seen enough: --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(128 + signal.SIGPIPE)
    except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
        if show_traceback:
            raise
        sys.exit(f"Error: {in_one_sentence(error)}")
    except SystemExit as end:
        if show_traceback and end.__cause__:
            raise end.__cause__ from None
        raise
    finally:
        if not show_traceback:
            del os.environ["HYDRA_FULL_ERROR"]


def prepare_hydra() -> None:
    """Make our plugins, the help text, and options without a file in conf/ known to Hydra."""
    launchers.register()
    extra = list(without_file(CONF))
    for group, name, keys in extra:
        ConfigStore.instance().store(name, keys, group)
    OmegaConf.register_new_resolver("options_help", lambda: options_help(CONF, extra), replace=True)


def task(tree: DictConfig) -> str:
    """Execute the run of a composed config and return its state.

    Hydra calls this here for a single run, whose state becomes the exit code, and in the
    workers of a sweep, whose parent has checked and planned all runs.
    """
    from . import journal  # torch, for which --help and tab completion need not wait
    from .execute import execute
    from .launchers import launch
    from .store.rundir import FINISHED

    settings = HydraConfig.get()
    sweep = settings.runtime.choices.get("sweep")
    if not OmegaConf.is_missing(settings.job, "num"):
        try:
            stopping.follow()
            return execute(parse(plain(tree), sweep), job=settings.job.num)
        except Exception as error:
            journal.show_unforeseen(error)
            raise
    try:
        config = parse(plain(tree), sweep)
        if settings.launcher["_target_"].endswith(".SlurmLauncher"):
            name = settings.runtime.choices["hydra/launcher"]
            raise ValueError(f"hydra/launcher={name} submits sweeps; add -m, for one run too")
        launch.check([config])
        if not config.plan:
            launch.begin([config], [list(settings.overrides.task)])
    except (ValueError, OSError) as error:
        raise SystemExit(f"Error: {in_one_sentence(error)}") from error
    if config.plan:
        launch.show_plan([config])
        sys.exit(0)
    with stopping.listening():
        state = execute(config)
        if state not in FINISHED and (why := stopping.reason(config.time_limit)):
            print(f"Stopped by {why}: {config.run.path} is {state}.", file=sys.stderr)
            sys.exit(stopping.exit_code())
        sys.exit(0 if state in (*FINISHED, "running") else 1)


def in_one_sentence(error: Exception) -> str:
    """What a person did wrong and what to do instead, in place of Hydra's paragraphs."""
    text = str(error)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    if "group override must be a string" in text:  # Hydra does not say which
        for argument in sys.argv[1:]:
            group, _, value = argument.partition("=")
            if group in DEFAULTS and not all(
                isinstance(yaml.safe_load(name), str) for name in value.split(",")
            ):
                return _unknown_option(group, value, _options(group))
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, ValueError):
        return str(error.__cause__)  # of a launcher or sweeper of ours
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return " ".join(text.split())
    if unknown := re.search(r"Could not find '([^']+)'", text):
        parts = unknown[1].split("/")
        depth = 2 if parts[0] == "hydra" else 1
        group, option = "/".join(parts[:depth]), "/".join(parts[depth:])
        known = _options(group)
        if depth == 2:  # plugins have options of their own, which Hydra lists one a line
            known = re.findall(r"^\t(\S+)$", text, re.M)
        return _unknown_option(group, option, known)
    if unknown := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(unknown[1])
    if "--multirun" in text and (values := re.search(r"(?:argument|parameters) '([^']+)'", text)):
        return f"{values[1]} lists several values; add -m to sweep over them"
    if "`_target_`" in text:  # a name stands where a group's keys belong
        return "a launcher is chosen with a slash, hydra/launcher=NAME; its keys have dots"
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read as KEY=VALUE; use no spaces around = or in lists "
            "a,b,c, and close brackets and quotes"
        )
    return " ".join(f"{text} {error.__cause__ or ''}".split())


def _unknown_option(group: str, option: str, known: list[str]) -> str:
    reason = ""
    if file := unnamed(group, option):
        reason = f': no class in {file} has the line name: ClassVar[str] = "{option}"; add it, or'
    listed = f"{reason or ';'} use {', '.join(known)}" if known else ""
    amount = "; how much is corrupted is corrupt=0.4, say" if group == "corruption" else ""
    return f"{group}={option} is unknown{listed}{amount}"


def _options(group: str) -> list[str]:
    """Those of files under conf, and those of one's own files."""
    folder = CONF / group
    names = [f.relative_to(folder).with_suffix("").as_posix() for f in folder.rglob("*.yaml")]
    own = (name.removesuffix(".yaml") for name in ConfigStore.instance().repo.get(group, {}))
    return sorted({*names, *own})


def _unknown_key(key: str) -> str:
    """`key` is none, and what may have been meant."""
    if key.startswith("hydra.launcher."):
        listed = "; ".join(f"{name} takes {keys}" for name, keys in launcher_keys(CONF))
        return f"{key} is no key of the chosen options; of hydra/launcher, {listed} (docs/slurm.md)"
    known = known_keys(CONF)
    meant = [name for name in known if name.endswith(f".{key}")][:3]
    meant = meant or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"did you mean {' or '.join(meant)}? " if meant and key not in meant else ""
    return f"{key} is no key of the chosen options; {hint}--help lists each option's keys"


if __name__ == "__main__":
    from . import run  # by its real name, so that worker processes find `task` there

    run.main()

"""The entry: `python -m randlabels.run KEY=VALUE …` for one run, with `-m` for a sweep."""

from __future__ import annotations

import os
import signal
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from . import launchers
from .cli.compose import CONF, prepare_hydra
from .cli.errors import in_one_sentence
from .config import parse_composed
from .machine import stopping


def main() -> None:
    """Compose, check, execute; whatever the user got wrong ends as one sentence."""
    for flag in ("-m", "--multirun"):  # Hydra takes it before or after all overrides only
        if flag in sys.argv[2:]:
            sys.argv.remove(flag)
            sys.argv.insert(1, flag)
    stopping.begin()
    show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing several lines
    try:
        launchers.register()
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


def task(tree: DictConfig) -> str:
    """Execute the run of a composed config and return its state.

    Hydra calls this here for a single run, whose state becomes the exit code, and in the
    workers of a sweep, whose parent has checked and planned all runs.
    """
    from . import journal  # torch, for which --help and tab completion need not wait
    from .checks import check
    from .execute import execute
    from .launchers import launch
    from .store.rundir import FINISHED

    settings = HydraConfig.get()
    sweep = settings.runtime.choices.get("sweep")
    if not OmegaConf.is_missing(settings.job, "num"):
        try:
            stopping.follow()
            return execute(parse_composed(tree, sweep), job=settings.job.num)
        except Exception as error:
            journal.show_unforeseen(error)
            raise
    try:
        config = parse_composed(tree, sweep)
        if settings.launcher["_target_"].endswith(".SlurmLauncher"):
            name = settings.runtime.choices["hydra/launcher"]
            raise ValueError(f"hydra/launcher={name} submits sweeps; add -m, for one run too")
        check([config])
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


if __name__ == "__main__":
    from . import run  # by its real name, so that worker processes find `task` there

    run.main()

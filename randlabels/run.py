"""The entry: `python -m randlabels.run KEY=VALUE …` for one run, with `-m` for a sweep."""

import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from . import __version__
from .cli import CONF, in_one_sentence, prepare_hydra
from .config import parse_composed
from .launchers.grid import build_launcher, execute_sweep, register
from .machine import stopping
from .store.rundir import FINISHED

_outcome: int | Exception = 0  # of this process's single run; Hydra drops what the task returns


def main() -> None:
    """Execute the command line; a user's mistake ends as one sentence."""
    if sys.argv[1:] == ["--version"]:  # Hydra would print the version of Hydra
        print(f"randlabels {__version__}")
        return
    for flag in ("-m", "--multirun"):  # Hydra accepts it before or after all overrides only
        if flag in sys.argv[2:]:
            sys.argv.remove(flag)
            sys.argv.insert(1, flag)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack some characters
            stream.reconfigure(errors="replace")
    stopping.begin()
    global _outcome
    _outcome = 0
    show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing several lines
    try:
        register()
        completed = os.environ.get("COMP_LINE", "").rpartition(" ")[0]  # for tab completion
        prepare_hydra([*sys.argv[1:], *completed.split()])
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
        if isinstance(_outcome, Exception):
            raise _outcome
        sys.exit(_outcome)
    except KeyboardInterrupt:
        print("\nInterrupted. The same command continues from the checkpoints.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of the output has closed it, as in --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(128 + signal.SIGPIPE)
    except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
        if show_traceback:
            raise
        sys.exit(f"Error: {in_one_sentence(error)}")
    finally:
        if not show_traceback:
            del os.environ["HYDRA_FULL_ERROR"]


def task(tree: DictConfig) -> None:
    """Check and execute the single run of a composed config; Hydra calls it."""
    global _outcome
    try:
        _outcome = single_run(tree)
    except (ValueError, OSError) as error:  # Hydra would print more than the sentence
        _outcome = error


def single_run(tree: DictConfig) -> int:
    """Execute a run, and return the exit code; ValueError before anything is written."""
    from .checks import check  # imports torch, which --help and tab completion do not need
    from .execute import execute
    from .launchers import launch

    settings = HydraConfig.get()
    if not build_launcher(settings).local:
        name = settings.runtime.choices["hydra/launcher"]
        raise ValueError(f"hydra/launcher={name} submits sweeps; add -m, for one run too")
    config = parse_composed(tree, settings.runtime.choices.get("sweep"))
    check([config])
    if config.plan:
        launch.show_plan([config])
        return 0
    launch.begin([(config, list(settings.overrides.task))])
    with stopping.listening():
        execute([config])
    if (state := config.run.state()) in (*FINISHED, "running"):
        return 0
    if reason := stopping.reason(config.time_limit):
        print(f"Stopped by {reason}: {config.run.path} is {state}.", file=sys.stderr)
        return stopping.exit_code()
    return 1


def sweep(overrides: Sequence[str]) -> list[Path]:
    """Execute in this process what `-m OVERRIDES` describes, and return the folders of the runs.

    ValueError if a run is refused and nothing was started. KeyboardInterrupt after a Ctrl-C.
    """
    import torch  # imported here, see `single_run`

    register()
    prepare_hydra()
    stopping.begin()
    threads = torch.get_num_threads()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            hydra_of_app = GlobalHydra.instance().hydra
            assert hydra_of_app is not None
            tree = hydra_of_app.compose_config("config", list(overrides), RunMode.MULTIRUN)
            loader, arguments = hydra_of_app.config_loader, list(tree.hydra.overrides.task)
            configs, code = execute_sweep(loader, tree, arguments)
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        raise ValueError(in_one_sentence(error)) from error
    finally:
        torch.set_num_threads(threads)
    if code == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    return sorted({config.folder for config in configs})


if __name__ == "__main__":
    main()

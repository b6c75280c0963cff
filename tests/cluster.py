"""A real Slurm cluster of one machine: its daemons, with a separate folder and ports."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")

CPUS = 4
"""Cores that Slurm assumes, so that a machine with fewer cores runs several jobs at once."""

CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={d}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
# a requeued job waits until the credential of its last start has expired
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000
PartitionName=tests Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Return why no cluster can be started here, or None."""
    absent = [name for name in (*DAEMONS, *COMMANDS) if not shutil.which(name, path=_path())]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    return None


@contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """Start the cluster with its files in `folder`, and yield the variables that choose it."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().partition(".")[0]
    ctld, d = _free_ports()
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, ctld=ctld, d=d, folder=folder, cpus=CPUS))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    environment = {"SLURM_CONF": str(conf), "PATH": _path()}
    munge = {
        "key-file": key,
        "socket": folder / "munge.socket",
        "pid-file": folder / "munge.pid",
        "log-file": folder / "munge.log",
        "seed-file": folder / "munge.seed",
    }
    with ExitStack() as stack:
        options = [f"--{name}={path}" for name, path in munge.items()]
        # --force: munged otherwise refuses a socket below folders that others may write to
        stack.enter_context(_daemon(["munged", "-F", "--force", *options], environment))
        _wait((folder / "munge.socket").exists, "munged")
        stack.enter_context(_daemon(["slurmctld", "-D"], environment))
        stack.enter_context(_daemon(["slurmd", "-D"], environment))
        _wait(lambda: "idle" in call(environment, "sinfo", "-h", "-o", "%T"), "slurmd")
        yield environment
        call(environment, "scancel", "--user=root")


def call(environment: dict[str, str], *command: str) -> str:
    """Return what a command of Slurm prints, with its errors."""
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout


@contextmanager
def _daemon(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    daemon = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        daemon.terminate()
        try:
            daemon.wait(timeout=20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _wait(ready: Callable[[], bool], what: str) -> None:
    for _ in range(300):
        if ready():
            return
        time.sleep(0.1)
    raise TimeoutError(f"{what} did not start within 30 seconds")


def _free_ports() -> list[int]:
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        return [a.getsockname()[1], b.getsockname()[1]]


def _path() -> str:
    """Return PATH with the folders of daemons."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])

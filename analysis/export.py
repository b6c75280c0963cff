"""`python -m analysis.export DIR --to tensorboard [--out OUT]`: write event files for TensorBoard.

One folder per run, finished or running, with a scalar per metric and epoch, and the config keys as
hyper-parameters. Repeat it to add what was measured since. OUT is DIR/summary/tensorboard unless
given. Needs the extra: `pip install 'randlabels[tensorboard]'`.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from randlabels.console import ignore_closed_pipe, pluralize

from .runs import Collection, read


def main(arguments: list[str] | None = None) -> None:
    """Write the event files of all runs under DIR that have records."""
    options = argparse.ArgumentParser(f"python -m {__package__}.export", description=__doc__)
    options.add_argument("dir", type=Path, help="folder of runs")
    options.add_argument("--out", type=Path, help="folder of the event files")
    options.add_argument("--to", choices=["tensorboard"], required=True, help="the format to write")
    chosen = options.parse_args(arguments)
    out = chosen.out or chosen.dir / "summary" / "tensorboard"
    try:
        written = write_events(read(chosen.dir), out)
    except ImportError:
        sys.exit("Error: --to=tensorboard needs TensorBoard; pip install 'randlabels[tensorboard]'")
    except OSError as error:
        sys.exit(f"Error: {error}")
    print(f"{pluralize(written, 'run')} exported: tensorboard --logdir {out}")


def write_events(found: Collection, out: Path) -> int:
    """Replace the event files in `<out>/<run id>` of each run with records; return how many these
    are. The wall time of an event is the time trained until then, in seconds."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    records = found.records.to_pandas()
    for run, of_run in records.groupby("run"):
        folder = out / found.runs.loc[run, "run_id"]
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        writer = EventFileWriter(str(folder))
        keys = found.runs.loc[run, sorted(found.keys)].dropna().to_dict()
        writer.add_event(Event(summary=hparams_pb(keys)))
        times = of_run["seconds"].fillna(0).cumsum()
        metrics = of_run.drop(columns=["run", "epoch"]).to_dict("records")
        for step, time, record in zip(of_run["epoch"], times, metrics, strict=True):
            known = {name: value for name, value in record.items() if pd.notna(value)}
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in known.items()]
            writer.add_event(Event(step=step, wall_time=time, summary=Summary(value=values)))
        writer.close()
    return records["run"].nunique()


if __name__ == "__main__":
    with ignore_closed_pipe():
        main()

"""Event files of runs, read back with TensorBoard's own reader."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from analysis import export

from .synthetic import write_run


def read_events(folder: Path) -> tuple[list[tuple[int, float]], dict[str, object]]:
    """Return the train accuracies by step, and the hyper-parameters."""
    events = EventAccumulator(str(folder))
    events.Reload()
    (content,) = events.PluginTagToContent("hparams").values()
    start = metadata.parse_session_start_info_plugin_data(content)
    values = {key: getattr(v, v.WhichOneof("kind")) for key, v in start.hparams.items()}
    return [(event.step, event.value) for event in events.Scalars("train_acc")], values


def test_tensorboard_reads_the_runs_that_are_done_and_those_that_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    done = write_run(tmp_path, [0.25, 0.5], corrupt=0.5, model={"name": "mlp", "hidden": [8, 8]})
    running = write_run(tmp_path, [0.75], state="interrupted")
    export.main([str(tmp_path), "--to", "tensorboard"])
    out = tmp_path / "summary" / "tensorboard"
    assert capsys.readouterr().out == f"2 runs exported: tensorboard --logdir {out}\n"
    curve, keys = read_events(out / done.run_id)
    assert curve == [(0, 0.25), (1, 0.5)]
    assert (keys["corrupt"], keys["model.hidden"], keys["batch_size"]) == (0.5, "[8, 8]", 128)
    assert read_events(out / running.run_id)[0] == [(0, 0.75)]


def test_repeated_export_adds_what_was_measured_since_and_keeps_other_files(tmp_path: Path) -> None:
    """Also where the event files are put into the folders of the runs."""
    run = write_run(tmp_path, [0.25, 0.5])
    last = run.metrics.read_text().splitlines(keepends=True)
    run.done.unlink()
    for lines in (last[:1], last):
        run.metrics.write_text("".join(lines))
        export.main([str(tmp_path), "--to", "tensorboard", "--out", str(tmp_path)])
    assert read_events(run.path)[0] == [(0, 0.25), (1, 0.5)]
    assert run.metrics.read_text() == "".join(last) and run.config.is_file()


def test_folder_without_runs_and_a_missing_extra_end_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"^Error: \S+ holds no run; give a folder"):
        export.main([str(tmp_path), "--to", "tensorboard"])
    write_run(tmp_path, [0.5])
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(SystemExit, match="needs TensorBoard; pip install"):
        export.main([str(tmp_path), "--to", "tensorboard"])

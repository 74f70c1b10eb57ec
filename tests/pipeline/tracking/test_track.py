"""Results in trackers, read back with their own readers; one that is not there, and one that does not answer."""

import json
import struct
import sys

import numpy as np
import pytest

from cache.errors import UsageError
from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.results import load_results
from pipeline.options.trackers import TRACKERS, require_tracker
from pipeline.tracking.track import register_tracker, track_results
from tests.pipeline.finished_runs import HISTORY, add, predictions
from tests.plug_ins import forget_afterwards


@pytest.fixture
def run(tmp_path):
    """Two methods as training leaves them, one with epochs, and a page."""
    labels = np.arange(40) % 2
    add(tmp_path / "run", predictions(labels, np.arange(40) < 10), settings={"C": 0.1, "scaler": "standard"})
    add(
        tmp_path / "run",
        predictions(labels, np.arange(40) < 4),
        method="finetune",
        name="top-1",
        history=HISTORY,
        options={"epochs": 3, "unfreeze": "1"},
    )
    (tmp_path / "run" / "report.html").write_text("<p>the page</p>")
    return tmp_path / "run"


def test_tensorboard_has_metrics_curves_and_options(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track_results("tensorboard", run, load_results([run]))
    events = EventAccumulator(str(run / "tracking" / "tensorboard" / "seed-0" / "finetune-top-1"))
    events.Reload()
    assert [event.value for event in events.Scalars("test/accuracy")] == pytest.approx([0.9])
    assert [(event.step, event.value) for event in events.Scalars("val_loss")] == [
        (row["epoch"], pytest.approx(row["val_loss"])) for row in HISTORY
    ]
    assert [event.step for event in events.Scalars("train_loss")] == [1, 2, 3]  # none is known of epoch 0
    (options,) = events.Tensors("options/text_summary")
    assert b"| unfreeze | 1 |" in options.tensor_proto.string_val[0]


def test_mlflow_has_metrics_curves_options_and_the_page(run, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    track_results("mlflow", run, load_results([run]))
    client = MlflowClient(f"sqlite:///{run / 'tracking' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("run")
    tracked = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
    assert set(tracked) == {"seed-0/linear-logistic", "seed-0/finetune-top-1"}
    linear, tuned = tracked["seed-0/linear-logistic"], tracked["seed-0/finetune-top-1"]
    assert linear.data.metrics["test/accuracy"] == pytest.approx(0.75)
    assert (linear.data.params["C"], tuned.data.params["unfreeze"]) == ("0.1", "1")
    curve = client.get_metric_history(tuned.info.run_id, "val_loss")
    assert [(point.step, point.value) for point in curve] == [(row["epoch"], row["val_loss"]) for row in HISTORY]
    assert [artifact.path for artifact in client.list_artifacts(tuned.info.run_id)] == ["report.html"]


def records(path):
    """The records of a file of Weights & Biases: LevelDB's log format, behind a header of 7 bytes."""
    data, parts, start = path.read_bytes(), b"", 7
    while start + 7 <= len(data):
        if (left := 32768 - start % 32768) < 7:
            start += left
            continue
        length, kind = struct.unpack_from("<HB", data, start + 4)
        parts += data[start + 7 : start + 7 + length]
        start += 7 + length
        if kind in (1, 4):  # all of one, or its last part
            yield parts
            parts = b""


def test_wandb_leaves_a_folder_to_be_synchronized(run, monkeypatch):
    from wandb.proto import wandb_internal_pb2

    monkeypatch.delenv("WANDB_MODE", raising=False)
    track_results("wandb", run, [one for one in load_results([run]) if one.method == "finetune"])
    (path,) = (run / "tracking" / "wandb").glob("offline-run-*/*.wandb")
    losses, summary, config = [], {}, {}
    for data in records(path):
        record = wandb_internal_pb2.Record.FromString(data)
        items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        losses += [json.loads(items["val_loss"])] if "val_loss" in items else []
        summary |= {"/".join(item.nested_key) or item.key: item.value_json for item in record.summary.update}
        config |= {item.key: item.value_json for item in record.run.config.update}
    assert losses == [row["val_loss"] for row in HISTORY]
    assert json.loads(summary["test/accuracy"]) == pytest.approx(0.9)
    assert json.loads(config["unfreeze"]) == "1"
    assert b"report.html" in path.read_bytes()


def test_what_a_tracker_has_is_not_written_again(run, caplog):
    results = load_results([run])
    with caplog.at_level("INFO", "cutonce"):
        track_results("tensorboard", run, results)
        track_results("tensorboard", run, results)
        track_results(None, run, results)
    assert [record.message for record in caplog.records] == [
        f"tracked by tensorboard: {run / 'tracking' / 'tensorboard'}",
        "tensorboard has all of these results",
    ]
    assert len(compare_runs([run]).results) == 2  # what is tracked is no result


def test_a_tracker_that_does_not_answer_is_said_and_stops_nothing(run, caplog, monkeypatch):
    forget_afterwards(monkeypatch, TRACKERS)

    @register_tracker("silent", help_text="nobody")
    def track_silently(run, methods):
        raise ConnectionError("no route to host")

    track_results("silent", run, load_results([run]))
    assert f"silent did not take the results (ConnectionError: no route to host); they are in {run}" in caplog.text


def test_after_a_failure_only_what_is_missing_is_given_again(run, monkeypatch):
    forget_afterwards(monkeypatch, TRACKERS)
    given, fails = [], [True]

    @register_tracker("picky", help_text="who takes one")
    def track_pickily(run, methods):
        given.extend(method.name for method in methods)
        if len(given) == 2 and fails.pop():
            raise ConnectionError("gone")
        return "there"

    for _ in range(2):
        track_results("picky", run, load_results([run]))
    assert len(given) == 3
    assert given[1] == given[2] != given[0]


def test_a_tracker_that_is_not_there_is_refused_with_the_name_of_its_library(monkeypatch):
    require_tracker(None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UsageError, match="`track` tensorboard needs tensorboard: pip install 'tensorboard'"):
        require_tracker("tensorboard")
    with pytest.raises(UsageError, match="tensorbord"):
        require_tracker("tensorbord")

"""MLflow: where ``MLFLOW_TRACKING_URI`` says, or a SQLite file in the run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.run_layout import TRACKING
from pipeline.tracking.track import TrackedMethod, register_tracker

_LONGEST = 500
"""Characters of a parameter that every version of its stores keeps."""


@register_tracker("mlflow", needs="mlflow sqlalchemy alembic", install="mlflow")
def track_in_mlflow(run: Path, methods: Sequence[TrackedMethod]) -> str:
    """MLflow: its server, or a SQLite file in the run's folder."""
    # results are on disk: a server that does not answer is not waited for, as its defaults would for minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    folder = (run / TRACKING).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(uri)
    name = run.resolve().name
    known = client.get_experiment_by_name(name)
    own = None if "MLFLOW_TRACKING_URI" in os.environ else (folder / "mlflow-artifacts").as_uri()
    experiment = client.create_experiment(name, artifact_location=own) if known is None else known.experiment_id
    for method in methods:
        tracked = client.create_run(experiment, run_name=method.name).info.run_id
        points = [(0, method.metrics), *method.curves]
        metrics = [Metric(key, value, 0, epoch) for epoch, values in points for key, value in values.items()]
        parameters = [Param(key, str(value)[:_LONGEST]) for key, value in method.options.items()]
        for start in range(0, len(metrics), 1000):
            client.log_batch(tracked, metrics=metrics[start : start + 1000])
        for start in range(0, len(parameters), 100):
            client.log_batch(tracked, params=parameters[start : start + 100])
        if method.page is not None:
            client.log_artifact(tracked, str(method.page))
        client.set_terminated(tracked)
    return uri

"""Sweeps of heads on a Dask cluster of two processes: the heads made here, and as ``docs/scale.md`` tells it."""

import pickle
import re
from pathlib import Path

import dask
import numpy as np
import pytest
import torch
from dask.distributed import Client, LocalCluster
from distributed.diagnostics.plugin import SchedulerPlugin
from joblib import parallel_config
from sklearn.datasets import make_classification
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_info

from stages.config.heads import HeadConfig
from stages.fitting.fit_head import FeatureRows, train_head
from stages.fitting.scores import selection_score
from stages.fitting.solvers.linear_models import LinearModel, LinearModelFactory
from stages.runtime.threads import one_thread_per_fit
from tests.stages.fitting.rows_of_digits import fit_problem, numbered_classes

PAGE = (Path(__file__).parents[3] / "docs" / "scale.md").read_text(encoding="utf-8")
FEATURES, LABELS = make_classification(400, 300, n_informative=5, random_state=0, class_sep=0.7)
FEATURES = FEATURES.astype(np.float32)
TRAIN, VAL = FeatureRows(FEATURES[:300], LABELS[:300]), FeatureRows(FEATURES[300:], LABELS[300:])


def swept(name, options):
    return train_head(name, fit_problem(TRAIN, VAL, classes=2, options=options))


def swept_on_the_cluster(name, options):
    with parallel_config(backend="dask"):
        return swept(name, options)


@pytest.fixture(scope="module")
def client():
    # Dask starts its workers with one BLAS thread unless told otherwise: told otherwise, our own limit has to hold
    two_threads = dask.config.set({"distributed.nanny.pre-spawn-environ.OPENBLAS_NUM_THREADS": 2})
    two_workers = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with two_threads, LocalCluster(**two_workers) as cluster, Client(cluster) as client:
        yield client


@pytest.mark.parametrize("name", ["logistic", "svm", "rbf"])
def test_a_head_swept_on_a_cluster_equals_the_one_swept_here_bit_for_bit(client, name):
    options = HeadConfig(c_values=(1e-4, 1e-3, 1e-2))
    local, on_cluster = swept(name, options), swept_on_the_cluster(name, options)
    assert on_cluster.selection == local.selection
    assert on_cluster.settings == local.settings
    assert (on_cluster.val_loss, on_cluster.val_score) == (local.val_loss, local.val_score)
    for module in ("module", "module_train_only"):
        weights, expected = getattr(on_cluster, module).state_dict(), getattr(local, module).state_dict()
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[part], expected[part]) for part in expected)


def test_models_that_travel_give_the_scores_of_a_path_walked_value_after_value(client):
    """Folds turn down at different values of C here, so that some are taken up again from where they stopped."""
    on_cluster = swept_on_the_cluster("logistic", HeadConfig(scalers=("standard",)))
    assert [candidate["C"] for candidate in on_cluster.selection] == sorted(HeadConfig().c_values)
    center = TRAIN.features.mean(axis=0, dtype=np.float64).astype(np.float32)
    rows, task = FEATURES - center, numbered_classes(2)
    factory = LinearModelFactory("logistic", task, center)
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(FEATURES, LABELS))
    with one_thread_per_fit():
        models = [factory("standard", rows[fitted], LABELS[fitted]) for fitted, _ in folds]
        for candidate in on_cluster.selection:
            scores = []
            for model, (_, scored) in zip(models, folds, strict=True):
                model.fit(candidate["C"])
                scores.append(selection_score(task, model.scores(rows[scored]), LABELS[scored]))
            assert candidate["score"] == np.mean(scores)


def note_fits(noted):
    """Return a fit of a linear model that also notes the threads it runs on: of BLAS, and of torch."""
    fit = LinearModel.fit

    def noting(*args, **options):
        blas_threads = max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        noted.append(max(blas_threads, torch.get_num_threads()))
        return fit(*args, **options)

    return noting


def note_fits_from_now_on():
    LinearModel.noted = []
    LinearModel.fit = note_fits(LinearModel.noted)


def fits_noted():
    return LinearModel.noted


def test_every_fit_of_the_sweep_runs_on_the_workers_and_on_one_blas_thread(client, monkeypatch):
    client.run(note_fits_from_now_on)
    local_fits = []
    monkeypatch.setattr(LinearModel, "fit", note_fits(local_fits))
    trained = swept_on_the_cluster("logistic", HeadConfig(c_values=(1e-4, 1e-3, 1e-2)))
    worker_fits = client.run(fits_noted)
    assert len(worker_fits) == 2
    assert all(worker_fits.values())  # both worked
    assert sum(map(len, worker_fits.values())) >= 5 * len(trained.selection)
    assert len(local_fits) == 2  # the chosen setting, with and without the validation split
    assert {threads for fits in (local_fits, *worker_fits.values()) for threads in fits} == {1}


class Messages(SchedulerPlugin):
    """What the scheduler is sent: bytes of each task, and which data of at least `large` bytes the tasks share."""

    name = "messages"

    def __init__(self, large):
        self.large, self.task_bytes, self.data = large, [], set()

    def update_graph(self, scheduler, *, tasks, **unused):
        for task in (scheduler.tasks[key] for key in tasks):
            if task.run_spec is not None:  # a task, and not data for one
                self.task_bytes.append(len(pickle.dumps(task.run_spec)))
                self.data |= {data.key for data in task.dependencies if data.nbytes >= self.large}


@pytest.mark.parametrize("name", ["logistic", "rbf"])
def test_the_features_are_sent_once_for_all_settings_and_folds(client, name):
    messages = Messages(FEATURES.nbytes)
    client.cluster.scheduler.add_plugin(messages)
    trained = swept_on_the_cluster(name, HeadConfig(c_values=(1e-3, 3e-3), scalers=("none", "standard")))
    client.cluster.scheduler.remove_plugin(messages.name)
    assert len(trained.selection) == 4
    assert max(messages.task_bytes) < FEATURES.nbytes / 20
    # one sweep of 10 folds, of which a kernel machine keeps what its temperature is found from
    assert len(messages.task_bytes) <= 10
    assert len(messages.data) == 1


def test_the_page_shows_the_lines_that_send_a_sweep_to_a_cluster(client, photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client.run(note_fits_from_now_on)
    snippet = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[0]
    shown = {
        '"scheduler:8786"': repr(client.cluster.scheduler_address),
        '"photos/"': repr(str(photographs)),
        'cache="cutonce-cache"': 'cache="cutonce-cache", image_size=64',
    }
    for cluster_line, local_line in shown.items():
        assert cluster_line in snippet
        snippet = snippet.replace(cluster_line, local_line)
    names = {}
    exec(snippet, names)
    assert all(client.run(fits_noted).values())
    assert names["classifier"].classes_.tolist() == ["fire", "leaf", "sea"]

"""Stage 3 of tasks other than one class a sample: from images and from cached views, from where stage 2 ended."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.errors import UsageError
from stages.config.finetune import FinetuneConfig
from stages.finetuning.baselines import random_head
from stages.finetuning.finetune import finetune, require_trainable
from stages.finetuning.predict_images import predict_proba
from stages.finetuning.problem import FinetuneProblem
from stages.finetuning.setup import FinetuneSetup
from stages.network.heads.linear import LinearHead
from stages.runtime.distributed import Rank
from stages.tasks.base import evaluate
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from stages.training.losses import logits_of

QUICK = FinetuneConfig(unfreeze="blocks.6", epochs=2, lr=1e-3, head_lr=3e-3, finetune_batch_size=8, num_workers=0)

TASKS = {
    "multi_label": MultiLabel(["warm", "round"]),
    "regression": Regression(("price", "area"), mean=(500_000.0, 1.0), scale=(800.0, 0.5)),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("views")


def targets_of(task, classes):
    """Targets that follow from three classes, of which the first sample's second is not known."""
    if isinstance(task, MultiLabel):
        targets = np.array([[1, 0], [0, 1], [1, 1]], np.float32)[classes]
    else:
        targets = (np.array([[499_000, 1.5], [500_000, 1.0], [501_000, 0.5]])[classes] - task.mean) / task.scale
    targets[0, 1] = np.nan
    return targets


def problem_of(probe, name, cache, head=None, **changed):
    """The probe's photographs with a task, and the head that least squares gives on their features."""
    task = TASKS[name]
    manifest = replace(probe.manifest, task=task, targets=targets_of(task, probe.manifest.targets))
    if head is None:
        train = manifest.indices("train")[1:]  # without what is not known
        rows = np.column_stack([probe.features[train], np.ones(len(train))]).astype(np.float64)
        solution = np.linalg.solve(rows.T @ rows + 10 * np.eye(rows.shape[1]), rows.T @ manifest.targets[train])
        head = LinearHead.from_coefficients(solution[:-1].T, solution[-1])
    options = replace(probe.extractor.options, cache=cache, augment="light", views=2)
    extractor = replace(probe.extractor, options=options)
    return FinetuneProblem(extractor, manifest, head, replace(QUICK, **changed), 0)


@pytest.mark.parametrize("from_cache", [False, True], ids=["images", "views"])
@pytest.mark.parametrize("name", TASKS)
def test_training_begins_with_the_outputs_of_the_head_of_stage_2(probe, cache, name, from_cache):
    problem = problem_of(probe, name, cache, from_cache=from_cache)
    run = FinetuneSetup.to_train(problem, lambda *_: None).run(problem)
    run.model.eval()
    with torch.no_grad():
        batches = [(logits_of(run.model(inputs)), targets) for inputs, targets in run.val_batches()]
        val = problem.manifest.indices("val")
        expected = problem.head(torch.from_numpy(probe.features[val]))
    outputs, targets = (torch.cat(parts).cpu() for parts in zip(*batches, strict=True))
    assert torch.allclose(outputs, expected, atol=5e-3 if torch.cuda.is_available() else 1e-4)  # there in TF32
    np.testing.assert_array_equal(targets.numpy(), problem.manifest.targets[val])
    assert targets.numpy().dtype == problem.manifest.targets.dtype


@pytest.mark.parametrize(
    ("name", "options"),
    [("multi_label", {"mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1}), ("regression", {"from_cache": True})],
)
def test_fine_tuning_learns_every_task_and_is_scored_by_its_own_metric(probe, cache, name, options):
    task = TASKS[name]
    head = random_head(probe.extractor, task.out_features, 0)
    problem = problem_of(probe, name, cache, head, **options)
    result = finetune(problem)
    assert result.fit.best.val_score > max(0.7, 0.05 + result.fit.history[0].val_score)
    val = problem.val
    activated = predict_proba(problem.extractor, result.upper, val)
    statistics = task.statistic(torch.from_numpy(activated), torch.from_numpy(val.targets))
    assert evaluate(task, statistics)[task.primary] == pytest.approx(result.fit.best.val_score, abs=1e-4)
    train_score = result.fit.history[-1].train_score
    assert train_score is None if name == "multi_label" else train_score > 0.5


def test_training_begins_with_a_head_that_the_task_has_unless_one_is_named():
    found = {name: FinetuneConfig().for_task(name).init_head for name in ("single_label", *TASKS)}
    assert found == {"single_label": "logistic", "multi_label": "logistic", "regression": "ridge"}
    assert FinetuneConfig(init_head="mlp").for_task("regression").init_head == "mlp"


def test_what_the_loss_of_a_task_does_not_know_is_refused_before_anything_is_read(probe):
    with pytest.raises(UsageError, match=r"`label_smoothing` 0\.1: numbers have no classes"):
        require_trainable(
            probe.extractor, replace(QUICK, label_smoothing=0.1), replace(probe.manifest, task=TASKS["regression"])
        )
    require_trainable(
        probe.extractor, replace(QUICK, label_smoothing=0.1), replace(probe.manifest, task=TASKS["multi_label"])
    )


def test_batches_that_processes_cannot_share_and_what_a_device_does_not_compute_are_refused_before_anything_is_read(
    probe,
):
    with pytest.raises(UsageError, match=r"`finetune_batch_size` 8 has to be a multiple of the 3 processes"):
        require_trainable(probe.extractor, QUICK, probe.manifest, Rank(0, 3))
    require_trainable(probe.extractor, QUICK, probe.manifest, Rank(0, 4))
    on_apples = replace(probe.extractor, device=torch.device("mps"))
    with pytest.raises(UsageError, match=r"`amp_dtype` fp16 needs its gradients scaled"):
        require_trainable(on_apples, replace(QUICK, amp_dtype="fp16"), probe.manifest)

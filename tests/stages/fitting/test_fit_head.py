"""Stage 2 against scikit-learn itself, on data where the answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from cache.errors import DataError, UsageError
from stages.config.head_registry import find_head, head_names
from stages.config.heads import HeadConfig
from stages.fitting.fit_head import FeatureRows, head_probabilities, train_foldable_head, train_head
from stages.tasks.base import evaluate, ranked_by
from tests.stages.fitting.labels_and_numbers import labelled, numbered, problem_of
from tests.stages.fitting.moderated_scaler import ModeratedScaler
from tests.stages.fitting.rows_of_digits import TEN_CLASSES, digits, fit_problem, skewed

CPU = torch.device("cpu")
QUICK = HeadConfig(c_values=(1e-3, 1e-1), fit_epochs=30, fit_lr=(1e-2,), nystroem_components=100)
HEADS_FOR_VECTORS = [name for name in head_names() if find_head(name).rows not in ("map", "bag", "maps")]


def undo_temperature(trained):
    """Have both heads of a result say what they said before they were divided by its temperature."""
    with torch.no_grad():
        for module in (trained.module, trained.module_train_only):
            module.output.weight *= trained.settings["temperature"]
            module.output.bias *= trained.settings["temperature"]


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("scaling", ["none", "standard"])
def test_a_logistic_head_scores_as_scikit_learn_does_but_for_one_temperature(classes, scaling):
    train, val, test = digits(classes)
    only = replace(QUICK, c_values=(1e-2,), scalers=(scaling,))
    trained = train_head("logistic", fit_problem(train, val, classes=classes, options=only))
    features = np.concatenate([train.features, val.features]).astype(np.float64)
    labels = np.concatenate([train.labels, val.labels])
    scaler = ModeratedScaler(with_mean=scaling == "standard", with_std=scaling == "standard").fit(features)
    reference = LogisticRegression(C=1e-2, tol=1e-9, max_iter=5000).fit(scaler.transform(features), labels)
    expected = reference.predict_proba(scaler.transform(test.features.astype(np.float64)))
    undo_temperature(trained)
    assert np.abs(head_probabilities(trained.module, test.features, TEN_CLASSES) - expected).max() < 1e-4


@pytest.mark.parametrize("name", HEADS_FOR_VECTORS)
def test_every_head_learns_digits(name):
    train, val, test = digits()
    trained = train_head(name, fit_problem(train, val, classes=10, options=QUICK))
    probabilities = head_probabilities(trained.module, test.features, TEN_CLASSES)
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    accuracy = (probabilities.argmax(axis=1) == test.labels).mean()
    assert accuracy > (0.85 if name == "ncm" else 0.9)
    assert abs(trained.val_score - accuracy) < 0.06


@pytest.mark.parametrize("name", HEADS_FOR_VECTORS)
def test_a_head_has_the_same_bits_whatever_torch_is_set_to(name):
    rows, labels = skewed(400, 300)
    parts = [FeatureRows(rows[part], labels[part]) for part in (slice(250), slice(250, 300), slice(300, 400))]
    options = replace(QUICK, c_values=(1e-2, 1e-1), fit_epochs=2)

    def answers() -> list[np.ndarray]:
        trained, fold = train_foldable_head(name, fit_problem(*parts[:2], classes=3, options=options))
        return [head_probabilities(trained.module, parts[2].features, TEN_CLASSES), fold().outputs]

    plain = answers()
    assert all(np.array_equal(*pair) for pair in zip(plain, answers(), strict=True))
    torch.set_float32_matmul_precision("medium")
    try:
        assert all(np.array_equal(*pair) for pair in zip(plain, answers(), strict=True))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("classes", [2, 3])
def test_a_kernel_head_scores_as_scikit_learn_does(classes):
    train, val, test = digits(classes)
    only = replace(QUICK, c_values=(3e-3,), scalers=("standard",))
    trained = train_head("rbf", fit_problem(train, val, classes=classes, options=only))
    features = np.concatenate([train.features, val.features]).astype(np.float32)
    labels = np.concatenate([train.labels, val.labels])
    scaler = ModeratedScaler().fit(features)
    logits = trained.module(torch.from_numpy(test.features).float()).detach().numpy() * trained.settings["temperature"]
    for number in range(1, classes):
        reference = SVC(C=3.0).fit(scaler.transform(features), labels == number)
        scores = logits[:, number] - (logits[:, 0] if classes == 2 else 0)
        assert np.allclose(
            scores, reference.decision_function(scaler.transform(test.features.astype(np.float32))), atol=5e-3
        )


def test_a_kernel_head_of_labels_is_scikit_learns_on_the_rows_where_each_is_known():
    rows, labels = labelled(count=90, unknown=0.2)
    labels[:, 3] = 0
    trained = train_head("rbf", problem_of(rows, labels, options=replace(QUICK, c_values=(3e-3,), scalers=("none",))))
    logits = trained.module(torch.from_numpy(rows)).detach().numpy()
    gamma = 1 / (rows.shape[1] * (rows - rows[:67].mean(axis=0)).var())
    for number, column in enumerate(labels[:, :3].T):
        known = ~np.isnan(column)
        reference = SVC(C=3.0, gamma=gamma).fit(rows[known], column[known])
        scores = logits[:, number] * trained.settings["temperature"]
        assert np.allclose(scores, reference.decision_function(rows), atol=5e-3)
    assert np.allclose(logits[:, 3], np.log(1 / (1 + (labels[:, 3] == 0).sum())), atol=1e-5)


def test_the_slow_end_of_the_grid_is_left_out_once_it_is_clearly_worse():
    features, labels = make_classification(400, 300, n_informative=5, random_state=0, class_sep=0.7)
    rows = [FeatureRows(features[part].astype(np.float32), labels[part]) for part in (slice(0, 300), slice(300, 400))]
    values = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
    trained = train_head(
        "logistic", fit_problem(*rows, classes=2, options=HeadConfig(c_values=values, scalers=("none",)))
    )
    values_tried = [candidate["C"] for candidate in trained.selection]
    assert values_tried == sorted(values)[: len(values_tried)]
    assert 3 <= len(values_tried) < len(values)


def test_the_regularization_that_cross_validates_best_is_chosen():
    features, labels = make_classification(400, 300, n_informative=5, random_state=0, class_sep=0.7)
    rows = [FeatureRows(features[part].astype(np.float32), labels[part]) for part in (slice(0, 300), slice(300, 400))]
    trained = train_head(
        "logistic",
        fit_problem(*rows, classes=2, options=HeadConfig(c_values=(1e-3, 1e-2, 1.0, 100.0), scalers=("none",))),
    )
    scores = {candidate["C"]: candidate["score"] for candidate in trained.selection}
    assert trained.settings["C"] == max(scores, key=scores.get)
    assert scores[trained.settings["C"]] > scores[max(scores)] + 0.01
    assert trained.settings["selected by"].startswith("5-fold")


def test_scores_that_are_compared_are_those_of_scikit_learn_to_an_image():
    features, labels = make_classification(400, 300, n_informative=5, random_state=0, class_sep=0.7)
    features = features.astype(np.float32)
    rows = [FeatureRows(features[part], labels[part]) for part in (slice(0, 300), slice(300, 400))]
    options = HeadConfig(scalers=("standard",), c_values=HeadConfig.c_values[1:])
    trained = train_head("logistic", fit_problem(*rows, classes=2, options=options))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    theirs = {}
    for candidate in trained.selection:
        model = make_pipeline(ModeratedScaler(), LogisticRegression(C=candidate["C"], tol=1e-6, max_iter=50_000))
        theirs[candidate["C"]] = cross_val_score(model, features, labels, cv=folds).mean()
        # fits stop early while they are compared, which shows where regularisation is far too weak: an image a fold
        allowed = 1 if candidate["C"] <= 0.1 else 5
        assert abs(candidate["score"] - theirs[candidate["C"]]) * 400 < allowed + 0.5
    assert theirs[trained.settings["C"]] * 400 > max(theirs.values()) * 400 - 1.5


def test_zero_folds_select_on_the_validation_split():
    train, val, _ = digits()
    trained = train_head("logistic", fit_problem(train, val, classes=10, options=replace(QUICK, cv=0)))
    assert trained.settings["selected by"] == "validation split"
    by_hand = LogisticRegression(C=0.1, max_iter=500).fit(train.features.astype(np.float32), train.labels)
    score = next(
        candidate["score"] for candidate in trained.selection if candidate["C"] == 0.1 and candidate["scaler"] == "none"
    )
    assert score == pytest.approx(by_hand.score(val.features.astype(np.float32), val.labels), abs=0.006)


def test_folds_never_exceed_the_rarest_class():
    train, val, _ = digits(2)
    few = FeatureRows(train.features[:60], train.labels[:60].copy())
    few.labels[:] = 0
    few.labels[:2] = 1
    alone = FeatureRows(val.features[:20], np.zeros(20, dtype=np.int64))
    trained = train_head("logistic", fit_problem(few, alone, classes=2, options=QUICK))
    assert trained.settings["selected by"].startswith("2-fold")


def test_the_head_fine_tuning_starts_from_has_not_seen_the_validation_split():
    train, val, _ = digits()
    wrong = FeatureRows(val.features, (val.labels + 1) % 10)
    honest = train_head("logistic", fit_problem(train, val, classes=10, options=QUICK))
    misled = train_head(
        "logistic",
        fit_problem(
            train,
            wrong,
            classes=10,
            options=replace(QUICK, c_values=(honest.settings["C"],), scalers=(honest.settings["scaler"],)),
        ),
    )
    for trained in (honest, misled):
        undo_temperature(trained)  # one number, which is of the images left out
    torch.testing.assert_close(honest.module_train_only.output.weight, misled.module_train_only.output.weight)
    assert not torch.allclose(honest.module.output.weight, misled.module.output.weight, rtol=0.01)


@pytest.mark.parametrize("cv", [0, 5])
def test_a_logistic_head_on_few_rows_is_as_sure_as_it_is_right(cv):
    """By how many are right, C may be so small that each class is about as likely as the others."""
    numbers = np.random.default_rng(0)
    labels = np.arange(1200) % 3
    rows = (numbers.normal(size=(3, 200))[labels] / 4 + numbers.normal(size=(1200, 200))).astype(np.float32)
    train, val, test = (FeatureRows(rows[part], labels[part]) for part in (slice(60), slice(60, 90), slice(90, None)))
    options = HeadConfig(c_values=(1e-5,), scalers=("standard",), cv=cv)
    trained, fold = train_foldable_head("logistic", fit_problem(train, val, classes=3, options=options))
    said = [head_probabilities(trained.module, test.features, TEN_CLASSES)]
    undo_temperature(trained)
    said.append(head_probabilities(trained.module, test.features, TEN_CLASSES))
    assert (said[0].argmax(axis=1) == said[1].argmax(axis=1)).mean() > 0.999
    assert log_loss(test.labels, said[0]) < 0.7 < 1.0 < log_loss(test.labels, said[1])
    if cv:
        outputs = fold().outputs[0]
        shares = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
        assert log_loss(labels[:90], shares) < 0.7


def test_temperature_makes_probabilities_of_margins():
    train, val, test = digits()
    trained = train_head("svm", fit_problem(train, val, classes=10, options=QUICK))
    calibrated = log_loss(test.labels, head_probabilities(trained.module, test.features, TEN_CLASSES))
    undo_temperature(trained)
    assert calibrated < 0.7 * log_loss(test.labels, head_probabilities(trained.module, test.features, TEN_CLASSES))


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_torch_heads_take_features_as_they_are_cached(name):
    """The standardisation they train with is folded in: features far from zero do not hurt."""
    train, val, test = digits()
    moved = [FeatureRows(rows.features.astype(np.float32) * 0.01 + 7, rows.labels) for rows in (train, val, test)]
    trained = train_head(name, fit_problem(*moved[:2], classes=10, options=QUICK))
    assert (
        head_probabilities(trained.module, moved[2].features, TEN_CLASSES).argmax(axis=1) == test.labels
    ).mean() > 0.9


def test_the_best_epoch_is_kept_and_training_stops_when_it_no_longer_helps():
    train, val, _ = digits()
    trained = train_head(
        "mlp", fit_problem(train, val, classes=10, options=replace(QUICK, fit_epochs=200, fit_patience=5))
    )
    assert len(trained.history) < 200
    best = max(trained.history, key=lambda epoch: (epoch.val_score, -epoch.val_loss))
    assert trained.settings["best epoch"] == best.epoch
    right = (
        head_probabilities(trained.module_train_only, val.features, TEN_CLASSES).argmax(axis=1) == val.labels
    ).mean()
    assert right == pytest.approx(best.val_score, abs=0.005)


@pytest.mark.parametrize("name", HEADS_FOR_VECTORS)
def test_the_features_it_is_given_stay_as_they_are(name):
    rows = [FeatureRows(part.features[:120].astype(np.float32), part.labels[:120]) for part in digits()[:2]]
    before = [part.features.copy() for part in rows]
    train_head(name, fit_problem(*rows, classes=10, options=replace(QUICK, fit_epochs=1)))
    assert all(np.array_equal(part.features, kept) for part, kept in zip(rows, before, strict=True))


def test_the_same_seed_gives_the_same_head_and_the_global_random_state_is_untouched():
    train, val, test = digits()
    torch.manual_seed(11)
    state = torch.random.get_rng_state()
    first, second, other = (
        train_head("mlp", fit_problem(train, val, classes=10, options=replace(QUICK, fit_epochs=5), seed=seed))
        for seed in (1, 1, 2)
    )
    probabilities = [head_probabilities(result.module, test.features, TEN_CLASSES) for result in (first, second, other)]
    assert np.array_equal(probabilities[0], probabilities[1])
    assert not np.array_equal(probabilities[0], probabilities[2])
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_head_for_vectors_on_maps_says_which_pooling_would_fit():
    maps = FeatureRows(np.zeros((10, 4, 3, 3), np.float16), np.arange(10) % 2)
    with pytest.raises(UsageError, match="`pool` avg"):
        train_head("logistic", fit_problem(maps, maps, classes=2, options=QUICK))
    with pytest.raises(UsageError, match="`pool` avg"):
        train_head("mlp", fit_problem(maps, maps, classes=2, options=QUICK))


def test_one_class_or_no_validation_rows_are_refused():
    rows = FeatureRows(np.zeros((10, 4), np.float16), np.zeros(10, np.int64))
    none = FeatureRows(rows.features[:0], rows.labels[:0])
    with pytest.raises(DataError, match="single class"):
        train_head("logistic", fit_problem(rows, rows, classes=2, options=QUICK))
    with pytest.raises(DataError, match="validation split holds no"):
        train_head("logistic", fit_problem(rows, none, classes=2, options=QUICK))


@pytest.mark.parametrize("name", ["logistic", "svm", "rbf", "ridge", "ncm", "knn", "sgd", "kernel_ridge"])
def test_features_whose_squares_are_no_numbers_of_32_bits_are_refused_and_a_little_smaller_ones_are_fitted(name):
    train, val, _ = digits(2)
    large = [replace(part, features=part.features.astype(np.float32) * 1e10) for part in (train, val)]
    fitted = train_head(name, fit_problem(*large, classes=2, options=QUICK))
    assert np.isfinite(fitted.val_activated).all()
    beyond = large[1].features.copy()
    beyond[3, 5] = -3e18
    with pytest.raises(DataError, match=r"beyond 1e\+12 in rows 3 of the validation split"):
        train_head(name, fit_problem(large[0], replace(large[1], features=beyond), classes=2, options=QUICK))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in HEADS_FOR_VECTORS
        for task, kind in (("multi_label", labelled), ("regression", numbered))
        if task in find_head(name).tasks
    ],
)
def test_every_head_learns_the_other_tasks_that_it_is_for(name, kind):
    rows, targets = kind(count=160, unknown=0.1)
    options = replace(QUICK, c_values=(1e-2, 1.0), fit_epochs=20, fit_batch_size=16, fit_dropout=0.0, hidden_dim=64)
    problem = problem_of(rows, targets, options=options)
    trained = train_head(name, problem)
    assert trained.module(torch.from_numpy(rows)).shape == targets.shape
    assert trained.val_score > (0.7 if kind is labelled else 0.5)  # average precision, share of the variance
    # calibrated by the head that has not seen the validation split
    activated = problem.task.activate(trained.module_train_only(torch.from_numpy(problem.val.features)).detach())
    expected = problem.task.calibrated(activated, torch.from_numpy(problem.val.labels))
    assert trained.task == expected != problem.task == trained.task.uncalibrated()


def test_the_heads_that_are_trained_unasked_are_those_of_the_task():
    assert HeadConfig().heads_for("single_label") == ("logistic", "svm", "rbf", "mlp")
    assert HeadConfig(head=("ncm",)).heads_for("regression") == ("ncm",)
    for task in ("single_label", "multi_label", "regression"):
        assert all(task in find_head(name).tasks for name in HeadConfig().heads_for(task))


def test_a_head_that_is_for_classes_alone_names_those_for_numbers():
    rows, numbers = numbered(count=20)
    with pytest.raises(UsageError, match=r"for the task single_label, not for regression; take one that is: .*ridge"):
        train_head("ncm", problem_of(rows, numbers))


def test_what_there_is_not_is_not_balanced():
    balanced = replace(QUICK, class_weights="balanced")
    with pytest.raises(UsageError, match="`class_weights` balanced weighs classes, and the task regression has none"):
        train_head("ridge", problem_of(*numbered(count=20), options=balanced))
    drawn = replace(QUICK, sampling="balanced")
    with pytest.raises(UsageError, match="use `class_weights` balanced, which weighs each label's samples"):
        train_head("mlp", problem_of(*labelled(count=20), options=drawn))


def test_a_torch_head_weighs_the_samples_with_a_rare_label_as_much_as_those_without():
    rows, labels = labelled(count=160)
    labels[:, 0] = 0
    labels[::40, 0] = 1  # four, of which the features know nothing: what is learned is how frequent they are
    options = replace(QUICK, fit_epochs=20, fit_lr=(0.1,), fit_weight_decay=(1.0,), fit_batch_size=16)
    shares = [
        train_head("linear", problem_of(rows, labels, options=replace(options, class_weights=weights)))
        .module(torch.from_numpy(rows))[:, 0]
        .sigmoid()
        .mean()
        for weights in ("none", "balanced")
    ]
    assert shares[0] < 0.2 < shares[1]


def test_labels_that_all_training_rows_have_or_none_are_named():
    rows, labels = labelled(count=60)
    labels[:45, 0], labels[:45, 2] = 0, np.nan
    trained = train_head("ridge", problem_of(rows, labels, options=replace(QUICK, scalers=("none",))))
    assert trained.settings["not learned"] == "a, c"
    assert "not learned" not in train_head("ridge", problem_of(*labelled(count=60), options=QUICK)).settings


def test_of_sixty_classes_the_winner_by_the_metric_that_selects_is_the_one_that_knows_the_rare_ones():
    """Ranked by accuracy, what says the commonest class of nearly every row would win."""
    generator = np.random.default_rng(0)
    labels = np.concatenate([np.zeros(500, np.int64), np.repeat(np.arange(1, 60), 6)])
    centers = generator.normal(size=(60, 40))
    centers[0] = 0  # the common class lies among the others
    rows = (9 + centers[labels] + generator.normal(size=(len(labels), 40))).astype(np.float32)
    order = generator.permutation(len(labels))
    parts = [FeatureRows(rows[part], labels[part]) for part in np.split(order, [500, 700])]
    options = replace(QUICK, class_weights="balanced", n_neighbors=(50,))
    by_accuracy = fit_problem(*parts[:2], classes=60, options=options)
    task = ranked_by(by_accuracy.task, None, balanced=True)
    knn, ridge = (train_head(name, replace(by_accuracy, task=task)) for name in ("knn", "ridge"))
    assert train_head("knn", by_accuracy).val_score > train_head("ridge", by_accuracy).val_score
    assert ridge.val_score > knn.val_score
    of_knn, of_ridge = (
        evaluate(
            task,
            task.statistic(
                torch.from_numpy(head_probabilities(fit.module, parts[2].features, task)),
                torch.from_numpy(parts[2].labels),
            ),
        )
        for fit in (knn, ridge)
    )
    assert of_knn["f1_macro"] < 0.05
    assert of_ridge["balanced_accuracy"] > of_knn["balanced_accuracy"] + 0.5

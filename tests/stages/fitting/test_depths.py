"""Which depths, and how blocks count, are settings of every head; out of folds they are chosen on the other folds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.errors import UsageError
from stages.config.heads import HeadConfig
from stages.fitting import depths, fit_head, span
from stages.fitting.epochs.torch_heads import fit_torch_head
from stages.fitting.feature_rows import FeatureRows, StreamedFeatureRows
from stages.fitting.fit_head import head_probabilities, train_foldable_head, train_head
from stages.network.heads.serialization import load_head, save_head
from stages.tasks.multi_label import MultiLabel
from stages.tasks.regression import Regression
from tests.stages.fitting.depth_rows import TASK, WIDTH, Layout, problem_of, rows_of
from tests.stages.fitting.test_streaming import stored


@pytest.fixture(autouse=True)
def divided_once(monkeypatch):
    """Few rows are divided into folds several times, which says nothing of depths."""
    monkeypatch.setattr("stages.fitting.folds.REPEATED_BELOW", 0)


TOLD_IN = {"last": slice(240, 300), "blocks": slice(150, 240), "all": slice(0, 150)}


def accuracy(head, rows):
    return float((head_probabilities(head, rows, TASK).argmax(axis=1) == rows.labels).mean())


@pytest.mark.parametrize("told", TOLD_IN)
def test_the_depths_that_tell_are_chosen(told):
    train, val = (rows_of(count, seed, told_by=TOLD_IN[told]) for count, seed in ((70, 10), (30, 11)))
    trained = train_head("ridge", problem_of(train, val))
    assert trained.settings["depths"] == told
    assert trained.settings["block weight"] == "sqrt"
    assert {candidate["depths"] for candidate in trained.selection} == {"last", "blocks", "all"}
    assert accuracy(trained.module, rows_of(300, 3, told_by=TOLD_IN[told])) > 0.8


TRAIN, VAL, TEST = rows_of(70, 10), rows_of(30, 11), rows_of(300, 3)


@pytest.mark.parametrize("name", ["logistic", "svm", "ridge", "rbf", "kernel_ridge", "knn", "ncm", "mlp"])
def test_every_head_is_one_module_on_whole_rows_and_says_what_it_does_out_of_folds(name, tmp_path):
    problem = problem_of(TRAIN, VAL, fit_epochs=30, fit_lr=(1e-2,), hidden_dim=32)
    trained, fold = train_foldable_head(name, problem)
    assert trained.settings["depths"] in ("blocks", "all")
    assert accuracy(trained.module, TEST) > 0.8
    outside = fold()
    assert outside.outputs.shape == (1, 100, 3)
    held_out = (outside.outputs.mean(axis=0).argmax(axis=1) == np.concatenate([TRAIN.labels, VAL.labels])).mean()
    assert held_out > 0.7
    save_head(tmp_path / "head", trained.module, {})
    loaded, _ = load_head(tmp_path / "head")
    assert loaded.config["row_shape"] == [WIDTH]
    assert np.array_equal(head_probabilities(loaded, TEST, TASK), head_probabilities(trained.module, TEST, TASK))


def test_of_labels_that_say_nothing_outputs_out_of_folds_are_right_by_chance_alone():
    """The depths of a fold are chosen on the others; chosen on all, they would make it better than it is."""
    shares = []
    for seed in range(100, 106):
        labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(3), 40))
        rows = rows_of(120, seed, strength=0.0, labels=labels)
        train, val = rows.at(np.arange(80)), rows.at(np.arange(80, 120))
        trained, fold = train_foldable_head("ridge", problem_of(train, val))
        shares.append([(fold().outputs[0].argmax(axis=1) == labels).mean(), trained.settings["score"]])
    honest, chosen = np.mean(shares, axis=0)
    assert honest < 1 / 3 + 0.04
    assert honest < chosen - 0.02


def test_weightings_are_tried_where_several_are_named():
    problem = problem_of(TRAIN, VAL, block_weight=("dim", "equal"), c_values=(1e-3,))
    tried = train_head("ridge", problem).selection
    assert {(each["depths"], each["block weight"]) for each in tried} == {
        (depth, weight) for depth in ("last", "blocks", "all") for weight in ("dim", "equal")
    }


def test_heads_on_the_same_rows_share_what_is_summed(monkeypatch):
    problem, made = problem_of(TRAIN, VAL, c_values=(1e-3,)), []
    monkeypatch.setattr(depths, "BlockRows", lambda *given: made.append(given) or span.BlockRows(*given))
    for name in ("ridge", "logistic", "knn"):
        train_head(name, problem)
    assert len(made) == 1
    train_head("ridge", problem.part(np.arange(60), np.arange(60, 100)))
    assert len(made) == 2


def test_rows_too_many_to_be_kept_are_gone_through_for_each_choice_with_the_same_result(monkeypatch):
    problem = problem_of(TRAIN, VAL)
    kept = train_head("ridge", problem)
    monkeypatch.setattr(depths, "KEPT_BYTES", 0)
    anew = train_head("ridge", replace(problem, shared={}))
    assert anew.settings == kept.settings
    ours, theirs = (head_probabilities(trained.module, TEST, TASK) for trained in (anew, kept))
    assert np.allclose(ours, theirs, atol=1e-3)


@pytest.fixture
def streamed(tmp_path):
    """Train and validation in a cache, and how many bytes may be taken of them."""
    cache, keys = stored(tmp_path, "depths", np.concatenate([TRAIN.features, VAL.features]))

    def parts(memory):
        return (
            StreamedFeatureRows([cache], keys[:70], TRAIN.labels, memory),
            StreamedFeatureRows([cache], keys[70:], VAL.labels, memory),
        )

    return parts


@pytest.mark.parametrize("name", ["ridge", "logistic", "rbf"])
def test_streamed_rows_are_fitted_as_those_in_memory(streamed, name):
    options = {"cv": 0, "c_values": (1e-3, 1e-2)}
    trained = train_head(name, problem_of(*streamed(1 << 30), **options))
    expected = train_head(name, problem_of(TRAIN, VAL, **options))
    assert trained.settings["depths"] == expected.settings["depths"]
    assert np.allclose(trained.val_activated, expected.val_activated, atol=1e-3)


def test_landmarks_are_as_many_as_memory_has_room_for(streamed, monkeypatch):
    monkeypatch.setattr(span, "EXACT_UP_TO", 50)
    monkeypatch.setattr(depths, "FEWEST_LANDMARKS", 20)
    made = []
    monkeypatch.setattr(depths, "BlockRows", lambda *given: made.append(given[3]) or span.BlockRows(*given))
    # its own numbers twice; of each of 100 rows coordinates, a copy, and products for each of the three sets of depths
    each = 4 * (2 * WIDTH + (2 + 3) * 100)
    trained = train_head("ridge", problem_of(*streamed(40 * each), cv=0))
    assert made == [40]
    assert accuracy(trained.module, TEST) > 0.7
    words = r"allow 8\.8e-05, or name fewer of the `taps` \(blocks would do\), or take a head that trains"
    with pytest.raises(UsageError, match=words):
        train_head("ridge", problem_of(*streamed(4 * (2 * 150 + 4 * 100) * 20), cv=0))  # 150 numbers, streamed
    words = r"allow 8\.8e-05, or name fewer of the `taps` \(last would do\), or take a head that trains"
    with pytest.raises(UsageError, match=words):
        train_head("ridge", problem_of(*streamed(2 * 100 * 60 * 3 // 2), cv=0))  # 60 numbers, in memory
    with pytest.raises(UsageError, match=r"allow 8\.8e-05, or name fewer of the `taps`, or take a head"):
        train_head("ridge", problem_of(*streamed(4 * 100 * 20), cv=0))
    with pytest.raises(UsageError, match="`depths` last: rows are larger than"):
        train_head("mlp", problem_of(*streamed(40 * each), cv=0, depths=("last",)))


def test_few_streamed_rows_are_all_landmarks_only_if_all_have_room(streamed, monkeypatch):
    monkeypatch.setattr(depths, "FEWEST_LANDMARKS", 20)
    made = []
    monkeypatch.setattr(depths, "BlockRows", lambda *given: made.append(span.BlockRows(*given)) or made[-1])
    each = 4 * (2 * WIDTH + (2 + 3) * 100)
    for room in (100, 60):
        trained = train_head("ridge", problem_of(*streamed(room * each), cv=0))
        assert accuracy(trained.module, TEST) > 0.7
    assert [(rows.exact, len(rows.landmarks)) for rows in made] == [(True, 100), (False, 60)]


def test_streamed_rows_are_standardized_and_put_beside_landmarks_within_what_they_may_take(tmp_path, monkeypatch):
    """Of rows of many numbers a thousand are more than what is allowed may be."""
    monkeypatch.setattr(span, "EXACT_UP_TO", 50)
    rows = rows_of(3000, 1)
    cache, keys = stored(tmp_path, "many", rows.features)
    memory = 1 << 20
    train, val = (
        StreamedFeatureRows([cache], keys[part], rows.labels[part], memory) for part in (slice(2000), slice(2000, 3000))
    )
    blocks = span.BlockRows(train, val, {block.name: block.width for block in Layout().blocks}, 20, 0)
    assert all(2 * 4 * standardized.numel() <= memory // 4 for _, standardized in blocks._standardized())
    assert all(block.nbytes <= memory // 8 for part in blocks.parts for _, block in part.blocks())
    assert sum(len(standardized) for _, standardized in blocks._standardized()) == 3000


def test_several_labels_and_numbers_have_their_depths_chosen():
    def told(rows):
        return np.stack([rows.labels == 1, rows.labels == 2], axis=1).astype(np.float32)

    labels = [FeatureRows(rows.features, told(rows)) for rows in (TRAIN, VAL)]
    labels[0].labels[:5, 0] = np.nan
    trained = train_head("ridge", problem_of(*labels, task=MultiLabel(("b", "c"))))
    assert trained.settings["depths"] == "blocks"
    numbers = [FeatureRows(rows.features, rows.labels[:, None].astype(np.float32)) for rows in (TRAIN, VAL)]
    task = Regression(("price",)).scaled_to(numbers[0].labels)
    trained = train_head("kernel_ridge", problem_of(*numbers, task=task))
    assert trained.settings["depths"] == "blocks"


def test_a_weighting_that_there_is_not_is_refused_by_name():
    with pytest.raises(UsageError, match="block_weight"):
        HeadConfig(block_weight=("cubic",))
    with pytest.raises(UsageError, match="`block_weight` needs at least one value"):
        HeadConfig(block_weight=())


def test_features_that_do_not_change_or_are_copies_do_no_harm():
    constant = [replace(rows, features=rows.features.copy()) for rows in (TRAIN, VAL)]
    for rows in constant:
        rows.features[:, 200:230] = 3.5
        rows.features[:5] = rows.features[5:10]
    trained = train_head("ridge", problem_of(*constant))
    assert torch.isfinite(trained.module(torch.from_numpy(TEST.features).float())).all()


@pytest.mark.parametrize(
    "name", ["logistic", "svm", "ridge", "rbf", "kernel_ridge", "knn", "ncm", "sgd", "mlp", "linear"]
)
def test_images_that_are_all_the_same_have_a_head_too(name):
    """Nothing of them is in any direction: it says how frequent classes are, or less, as it does of one cut."""
    labels = np.arange(20) % 3
    train, val = (FeatureRows(np.full((count, WIDTH), 2.0, np.float16), labels[:count]) for count in (20, 9))
    trained, fold = train_foldable_head(name, problem_of(train, val, fit_epochs=3, fit_lr=(1e-2,), hidden_dim=8))
    said = head_probabilities(trained.module, val, TASK)
    assert np.isfinite(said).all()
    assert np.allclose(said, said[:1], atol=1e-6)
    assert np.isfinite(fold().outputs).all()


def test_a_head_on_some_depths_has_the_same_bits_whatever_was_asked_for_before():
    """Blocks are summed in the same parts, whichever of them are asked for together."""
    some = problem_of(TRAIN, VAL, depths=("all",))
    alone = train_head("ridge", replace(some, shared={}))
    every = replace(some, config=replace(some.config, depths=()))
    train_head("ridge", every)
    after = train_head("ridge", replace(every, config=some.config))
    assert alone.settings["depths"] == after.settings["depths"] == "all"
    for name, tensor in alone.module.state_dict().items():
        assert torch.equal(tensor, after.module.state_dict()[name])


def test_depths_that_there_are_not_are_refused_with_those_that_there_are():
    with pytest.raises(UsageError, match="`depths` stages: of the `taps` that are cached there are"):
        train_head("ridge", problem_of(TRAIN, VAL, depths=("stages",)))


def test_a_torch_head_on_one_set_of_depths_needs_no_search_by_ridge(monkeypatch):
    monkeypatch.setattr(depths, "import_head", None)
    trained, fold = train_foldable_head("mlp", problem_of(TRAIN, VAL, depths=("blocks",), fit_epochs=3, hidden_dim=8))
    assert trained.settings["depths"] == "blocks"
    assert "depths chosen by" not in trained.settings
    assert fold().outputs.shape == (1, 100, 3)


@pytest.mark.parametrize(
    ("name", "views", "numbers"), [("mlp", 0, 100), ("linear", 0, 100), ("cosine", 0, 150), ("mlp", 1, 150)]
)
def test_a_torch_head_that_begins_linear_is_trained_in_the_span_of_the_rows(monkeypatch, name, views, numbers):
    """Of 100 rows, unless they have views, which lie outside of it."""
    seen = []

    def fit(problem):
        seen.append((problem.train.row_shape, [view.shape for view in problem.train.augmented]))
        return fit_torch_head(name, problem)

    monkeypatch.setattr(fit_head, "get_fit", lambda _: fit)
    train = replace(TRAIN, augmented=[TRAIN.features + 0.1] * views)
    options = {"depths": ("blocks",), "fit_epochs": 2, "hidden_dim": 8, "fit_patience": 2}
    trained = train_head(name, problem_of(train, VAL, **options))
    assert seen == [((numbers,), [(70, 150)] * views)]
    rows = torch.from_numpy(TEST.features).float()
    assert torch.isfinite(trained.module(rows)).all()
    assert trained.module.config["row_shape"] == [WIDTH]


def test_torch_heads_take_coordinates_that_others_have_made(monkeypatch):
    """Out of folds on other depths too: to sum products again would take longer than to train."""
    problem = problem_of(TRAIN, VAL, fit_epochs=2, hidden_dim=8)
    trained, fold = train_foldable_head("mlp", problem)
    taken = []
    monkeypatch.setattr(depths, "variants_on_others", lambda _, said: [list(range(len(said)))])
    monkeypatch.setattr(depths, "put_together", lambda _, tried, picks: sorted(tried))
    monkeypatch.setattr(span, "_triangle", lambda products: taken.append(products))
    assert fold() == [0, 1, 2]
    assert taken == []
    assert trained.settings["depths"] == "blocks"


def test_rows_that_are_seen_by_landmarks_are_so_for_torch_heads_too(monkeypatch):
    monkeypatch.setattr(span, "EXACT_UP_TO", 60)
    train, val, test = (rows_of(count, seed, strength=2.0) for count, seed in ((140, 1), (60, 2), (300, 3)))
    options = {"fit_epochs": 40, "hidden_dim": 64, "fit_lr": (1e-2,), "nystroem_components": 60}
    trained = train_head("mlp", problem_of(train, val, depths=("all",), **options))
    assert accuracy(trained.module, test) > 0.8

"""When the cache has paid follows from what was measured, and from nothing else."""

import numpy as np
import pytest

from pipeline.evaluation.break_even import BreakEven, break_even
from pipeline.evaluation.comparison import compare_runs
from pipeline.report.cost_figures import break_even_figure
from tests.pipeline.finished_runs import HISTORY, add, predictions


def add_method(run, name, *, method="linear", train=2.0, extract=30.0, evaluate=1.0, **fields):
    stages = {"extract": extract, "train": train, "evaluate": evaluate}
    predicted = predictions(np.arange(40) % 2, np.arange(40) < 4)
    return add(run, predicted, name=name, method=method, seconds_by_stage=stages, **fields)


@pytest.fixture
def run(tmp_path):
    for seed in (0, 1):
        add_method(tmp_path, "logistic", seed=seed)
        add_method(tmp_path, "mlp", seed=seed, method="head", train=5.0, history=HISTORY)
        add_method(tmp_path, "top-3", seed=seed, method="finetune", train=90.0, history=HISTORY)
    return tmp_path


def test_a_closed_fit_is_a_pass_and_so_is_each_epoch_and_the_cache_is_filled_once(run):
    comparison = compare_runs([run])
    paid = comparison.break_even
    assert (paid.heads, paid.seeds, paid.passes) == (2, 2, 2 * (1 + 3))  # the start of a history is no epoch
    assert paid.fill_seconds == paid.pass_seconds == 30.0
    assert paid.marginal_seconds == 2 * (3.0 + 6.0)
    assert paid.with_cache(paid.passes) == pytest.approx(30 + 18)
    assert paid.without_cache(paid.passes) == pytest.approx(8 * 30 + 18)
    assert paid.paid_after == 2
    assert (
        comparison.verdict.details[-1]
        == paid.words
        == (
            "The cache took 30 s to fill, and another pass through the network takes 30 s (both measured): it pays from the "
            "2nd head, setting, seed or epoch on that would go through the images again. The 2 heads under 2 seeds here "
            "stand for 8 passes, in 48 s instead of 4 min 18 s: it has paid."
        )
    )


def test_a_measured_epoch_through_the_frozen_network_is_taken_where_there_is_one(run):
    history = [{**entry, "seconds": 8.0} for entry in HISTORY]
    for seed in (0, 1):
        add_method(run, "head", seed=seed, method="uncached", history=history)
    paid = compare_runs([run]).break_even
    assert paid.from_uncached
    assert paid.pass_seconds == 8.0
    assert paid.paid_after == 4
    assert paid.with_cache(3) > paid.without_cache(3)
    assert paid.with_cache(4) < paid.without_cache(4)
    assert "an epoch through the frozen network takes 8.0 s" in paid.words


def test_one_pass_has_nothing_to_pay_for_and_a_quick_pass_takes_many(tmp_path):
    add_method(tmp_path / "one", "logistic")
    assert compare_runs([tmp_path / "one"]).break_even is None
    add_method(tmp_path / "one", "logistic", seed=1)
    add_method(tmp_path / "one", "head", method="uncached", history=[{**HISTORY[1], "seconds": 1.5}])
    add_method(tmp_path / "one", "head", method="uncached", history=[{**HISTORY[1], "seconds": 1.5}], seed=1)
    said = compare_runs([tmp_path / "one"]).break_even.words
    assert "from the 21st head, setting, seed or epoch on" in said
    assert said.endswith(
        "The 1 head under 2 seeds here stands for 2 passes, in 36 s instead of 9.0 s: it has not paid yet."
    )
    add_method(tmp_path / "none", "top-3", method="finetune")
    assert compare_runs([tmp_path / "none"]).break_even is None
    add_method(tmp_path / "columns", "ridge", extract=0.0)
    assert break_even(compare_runs([tmp_path / "columns"]).rows) is None


def test_marginal_time_prediction_time_and_size_are_those_of_the_result(run):
    method = add_method(run, "ridge", prediction_seconds_per_image=0.0125, extraction_forwards=160)
    for name, size in (("head.safetensors", 1000), ("head.json", 20), ("model.json", 4), ("head-without-val.json", 9)):
        (method / name).write_bytes(b"x" * size)
    add_method(run, "ridge", seed=1, prediction_seconds_per_image=0.0175)
    row = next(row for row in compare_runs([run]).rows if row.name == "ridge")
    assert row.marginal_seconds == 3.0
    assert row.prediction_seconds == pytest.approx(0.015)
    assert row.model_bytes == 1024
    other = next(row for row in compare_runs([run]).rows if row.name == "logistic")
    assert other.model_bytes is None
    assert other.prediction_seconds == pytest.approx(30 / 160 + 1 / 40)  # of its stages, where it was not kept
    content = row.results[0].to_json()
    assert (content["marginal_seconds"], content["model_bytes"]) == (3.0, 1024)


def test_the_plot_crosses_where_it_has_paid_and_shows_the_run():
    paid = BreakEven(30.0, 8.0, True, 20, 18.0, 2, 2)
    axes = break_even_figure(paid).axes[0]
    (crossing,) = {
        line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2
    }
    assert paid.with_cache(crossing) == pytest.approx(paid.without_cache(crossing))
    assert {text.get_text() for text in axes.texts} == {"48 s", "2 min 58 s"}

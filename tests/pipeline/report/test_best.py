"""The page of a run that was searched says what was tried, when, and what came of it."""

import numpy as np

from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.trials import SearchSummary, TrialRecord, write_trials
from pipeline.experiment.compare_runs import write_comparison
from pipeline.report.best import quality_against_time, section
from pipeline.report.page_parts import Figures, slug
from stages.tasks.metrics import class_metrics
from tests.pipeline.finished_runs import add, predictions

ACCURACY = class_metrics(("a", "b"))["accuracy"]
TRIALS = [
    TrialRecord(0, "extract", "features of all images", "finished", 5.0, 5.0),
    TrialRecord(1, "logistic-all", "logistic on all", "finished", 2.0, 7.0, "linear-logistic", 0.8, "folds", 0.8),
    TrialRecord(2, "knn", "kNN", "failed", 1.0, 8.0, reason="no `max_memory_gb` left"),
    TrialRecord(3, "rbf", "RBF SVM", "finished", 9.0, 17.0, "head-rbf", 0.9, "folds", 0.91),
    TrialRecord(4, "top-3", "fine-tuning", "finished", 60.0, 77.0, "finetune-top-3", 0.85, "validation", 0.91),
]
SUMMARY = SearchSummary(
    *(90.0, 3, 77.0, {"folder": "head-rbf"}, ("Try <more>, with a `budget` of -5 s.",), ()),
)


def searched(run):
    for method, name in (("linear", "logistic"), ("head", "rbf")):
        add(run, predictions(np.arange(40) % 2, np.arange(40) < 5), method=method, name=name)
    write_trials(run, TRIALS)
    SUMMARY.save(run)


def page_of(run):
    (run / "environment.json").write_text("{}")
    return write_comparison(compare_runs([run]), [run], run).read_text()


def test_each_trial_and_the_words_of_the_search_stand_on_the_page(tmp_path):
    searched(tmp_path)
    page = page_of(tmp_path)
    assert page.index("What was tried, and when") > page.index('class="verdict"')
    assert page.index("What was tried, and when") < page.index("The methods")
    assert "Try &lt;more&gt;, with a --budget of −5 s." in page
    assert '<th scope="row">RBF SVM <span class="tag">to take</span></th>' in page
    assert ">kNN<" in page  # by what tables call it, where it has no folder too
    assert ">fine-tune top-3<" in page
    assert "(failed: no --max-memory-gb left)" in page
    assert '<td class="number">90.0 %</td>' in page
    assert "RBF SVM 90.0 % after 17 s" in page
    assert "features of all images" not in page
    assert (tmp_path / "figures" / f"best-time-{slug(tmp_path.name)}.png").exists()


def test_a_run_that_was_not_searched_says_nothing(tmp_path):
    add(tmp_path, predictions(np.arange(40) % 2, np.arange(40) < 5), method="head", name="rbf")
    assert section(tmp_path, Figures(tmp_path)) is None
    assert "What was tried" not in page_of(tmp_path)


def test_the_plot_has_each_trial_and_the_answer_at_any_time():
    (axes,) = quality_against_time(TRIALS, ACCURACY).axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in dots] == [(7, 0.8), (17, 0.9), (77, 0.85)]
    assert [line.get_markerfacecolor() == "none" for line in dots] == [False, False, True]
    assert [text.get_text() for text in axes.texts] == ["1", "3", "4"]
    steps = [(*line.get_xdata(), *line.get_ydata()) for line in axes.lines if line.get_marker() != "o"]
    assert (7, 17, 0.8, 0.8) in steps
    assert (17, 17, 0.8, 0.91) in steps
    assert (17, 77, 0.91, 0.91) in steps

import numpy as np
from markupsafe import Markup

from pipeline.report.tasks.registry import TASK_PAGES, TaskPart, register_task_page
from stages.tasks.base import TASKS, register_task
from tests.pipeline.finished_runs import HISTORY, Lengths, add, lengths
from tests.pipeline.report.pages import report
from tests.plug_ins import forget_afterwards


def test_a_task_without_classes_has_neither_confusions_nor_mistakes(tmp_path, monkeypatch):
    forget_afterwards(monkeypatch, TASKS)
    register_task("lengths")(Lengths)
    random = np.random.default_rng(0)
    for method, name in (("linear", "ridge"), ("finetune", "top-3")):
        add(tmp_path, lengths(random.normal(0, 1, 40)), method=method, name=name, val=0.5, history=HISTORY)
    page_text = report(tmp_path).words
    for present in (
        "test mean error",
        "squared error",
        "Mean error against time",
        "difference against",
        "image by image",
    ):
        assert present in page_text
    for absent in ("Confusion", "mistakes of", "classes;", "McNemar", "Always saying", "points"):
        assert absent not in page_text
    assert (tmp_path / "figures" / "mae-time.png").exists()


def test_what_is_registered_for_a_task_stands_on_its_page(tmp_path, monkeypatch):
    forget_afterwards(monkeypatch, TASKS)
    forget_afterwards(monkeypatch, TASK_PAGES)
    register_task("lengths")(Lengths)

    @register_task_page("lengths")
    def lengths_part(context):
        return TaskPart("lengths", "A metre is long.", Markup(f"<h2>{len(context.predictions)} of them</h2>"))

    add(tmp_path, lengths(np.linspace(-1, 1, 5)), val=0.5)
    page_text = report(tmp_path).words
    for expected in ("lengths; 100 images to train on", "A metre is long.", "5 of them"):
        assert expected in page_text

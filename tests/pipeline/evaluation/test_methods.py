import numpy as np
import pytest

from pipeline.evaluation import methods
from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.methods import get_method, is_method, register_method
from tests.pipeline.finished_runs import add, predictions


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))


@pytest.mark.parametrize(
    ("method", "name", "label", "cached"),
    [
        ("linear", "svm", "SVM", True),
        ("head", "mlp", "MLP", True),
        ("finetune", "top-3", "fine-tune top-3", False),
        ("uncached", "head", "frozen network head", False),
        ("scratch", "network", "scratch network", False),
    ],
)
def test_methods_are_called_what_they_always_were(method, name, label, cached):
    assert is_method(method)
    assert get_method(method).label(name) == label
    assert get_method(method).cached == cached
    assert not is_method("frozen")


@pytest.mark.usefixtures("own_registry")
def test_one_decorated_function_is_a_method_that_is_compared(tmp_path):
    register_method("prompt", order=-1, cached=True)(lambda name: f"prompt {name}")
    for method, name in (("linear", "logistic"), ("prompt", "of 8")):
        add(tmp_path, predictions(np.arange(20) % 2, np.arange(20) < 3), method=method, name=name)
    comparison = compare_runs([tmp_path])
    assert [row.label for row in comparison.rows] == ["prompt of 8", "logistic"]
    assert all(row.cached for row in comparison.rows)


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize(("name", "order"), [("linear", 17), ("prompt", 0)])
def test_a_method_of_the_same_name_or_place_is_refused(name, order):
    with pytest.raises(ValueError, match="'linear' is method 0"):
        register_method(name, order=order)(str)


def test_ensembles_and_means_over_networks_are_made_of_other_methods():
    assert methods.names_of_others() == ["ensemble", "mixture"]

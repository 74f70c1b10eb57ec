import pytest

from cache.errors import UsageError
from stages.config.data import DataConfig
from stages.config.goals import goal_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("recall=0.95", (None, 0.95, None)),
        ("recall=.5", (None, 0.5, None)),
        ("cost=5:1", (None, None, (5.0, 1.0))),
        ("defective:recall=0.9", ("defective", 0.9, None)),
        ("a:b:cost=2.5:0.5", ("a:b", None, (2.5, 0.5))),
    ],
)
def test_a_goal_is_a_recall_or_costs_of_a_class(text, expected):
    goal = goal_of(text)
    assert (goal.class_name, goal.recall, goal.costs) == expected
    assert goal.text == text
    assert goal_of(None) is None


@pytest.mark.parametrize("text", ["recall=1", "recall=0", "cost=0:1", "recall", "cost=5", "precision=0.9", ""])
def test_another_goal_is_refused_where_it_is_given(text):
    with pytest.raises(UsageError, match="`threshold_for`"):
        DataConfig("photos", threshold_for=text)
    with pytest.raises(UsageError, match="`coverage` 1 must be between 0 and 1"):
        DataConfig("photos", coverage=1.0)

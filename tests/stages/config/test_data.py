"""What the options of the data may say."""

import pytest

from cache.errors import UsageError
from stages.config.data import DataConfig


def test_what_is_said_of_folders_must_be_a_split_or_classes():
    for wrong in ("splits", "dev=validate", "=val", "classes dev=val"):
        with pytest.raises(
            UsageError, match=r"must be classes, or FOLDER=SPLIT with the split train, val, test or none"
        ):
            DataConfig("photos", folders=wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_by": "^([a-z"}, "is no regular expression"),
        ({"group_by": "patient"}, "one pair of brackets around the subject"),
        ({"group_by": "(a)(b)"}, "one pair of brackets around the subject"),
        ({"group_by": "folder", "group_column": "patient"}, "give one of them"),
    ],
)
def test_what_cannot_be_a_group_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        DataConfig("photos", **options)

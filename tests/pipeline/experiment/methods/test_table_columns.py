"""Columns of a manifest: fitted to train alone, and told what is odd about them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.errors import DataError, UsageError
from pipeline.experiment.methods.table_columns import encode_columns, note_columns_left_out
from stages.config.heads import HeadConfig
from stages.data.manifest import Manifest
from stages.tasks.multi_label import MultiLabel

MANIFEST = Manifest.load(Path(__file__).parents[1] / "fixtures" / "version_1" / "run" / "seed-0" / "manifest.csv")
NUMBERS = [str(number) for number in range(len(MANIFEST))]


def with_columns(**columns):
    return replace(MANIFEST, extra=columns)


def test_no_columns_are_asked_for():
    assert encode_columns(MANIFEST, HeadConfig()) is None


def test_encoders_are_fitted_to_train_alone():
    train = MANIFEST.indices("train")
    areas = np.array(["1000"] * len(MANIFEST), dtype=object)
    areas[train] = [str(number) for number in range(len(train))]
    zones = np.array(["elsewhere"] * len(MANIFEST), dtype=object)
    zones[train] = ["a", "b"] * (len(train) // 2) + ["a"]
    table = encode_columns(
        with_columns(area=areas.tolist(), zone=zones.tolist()), HeadConfig(columns=("area",), categories=("zone",))
    )
    assert np.allclose(table.encoded["train"].values[:, 0].mean(), 0, atol=1e-6)
    assert table.encoded["test"].unseen == {"zone": len(MANIFEST.indices("test"))}
    assert not table.encoded["test"].values[:, 1:].any()
    assert any(note.startswith("test: cells with what train never had: zone") for note in table.notes)


def test_words_among_numbers_are_counted_over_all_samples():
    with pytest.raises(DataError, match="`columns` area holds what is no number in 2 of 24 rows"):
        encode_columns(with_columns(area=["big", *NUMBERS[1:-1], "small"]), HeadConfig(columns=("area",)))


@pytest.mark.parametrize("target", [["price"], ["pri*"]])
def test_the_target_itself_is_called_that_and_not_unknown(target):
    samples = with_columns(area=NUMBERS)  # whose column price is what they are to predict, and no extra one
    with pytest.raises(UsageError, match="`columns` price says what a sample is, or what is to be predicted"):
        encode_columns(samples, HeadConfig(columns=("price",)), target)
    with pytest.raises(UsageError, match="`columns` price: there is no such column; there are area"):
        encode_columns(samples, HeadConfig(columns=("price",)), ["area_2"])


def test_one_label_of_several_is_found_among_the_columns():
    targets = np.random.default_rng(0).integers(2, size=(len(MANIFEST), 3)).astype(np.float32)
    tags = replace(MANIFEST, task=MultiLabel(("car", "sky", "tree")), targets=targets)
    same = replace(tags, extra={"seen": ["yes" if has else "no" for has in targets[:, 1]]})
    with pytest.raises(DataError, match="the column seen is the target"):
        encode_columns(same, HeadConfig(categories=("seen",)))


def test_columns_given_with_a_fine_tuning_are_said_to_have_no_part(caplog):
    with caplog.at_level("INFO", logger="cutonce"):
        note_columns_left_out(HeadConfig())
        note_columns_left_out(HeadConfig(columns=("area",), texts=("note",)))
    assert [record.message for record in caplog.records] == [
        "note: a network is fine-tuned on images alone; the columns area, note have no part in it"
    ]

"""New samples of several images, found as those that a model was trained on, and predicted as they were tested."""

import numpy as np
import pytest

from cache.errors import UsageError
from pipeline.evaluation.results import Result
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.methods.head_methods import run_heads
from pipeline.experiment.prediction.classify_images import predict_images
from pipeline.experiment.prediction.find_samples import find_samples, sample_options
from stages.config.data import DataConfig
from stages.config.heads import HeadConfig
from tests.stages.data.pictures import write_images
from tests.stages.data.sources.test_video import write_video


def names(samples):
    return [[view and view.rpartition("/")[2] for view in sample.images] for sample in samples]


def test_tables_folders_and_videos_are_samples(tmp_path):
    write_images(tmp_path / "new", {"b": 1, "a": 12, "": 2})
    write_video(tmp_path / "new" / "clip.mp4", frames=3)
    samples = find_samples([tmp_path / "new"], sample_options(DataConfig("", frames=4)))
    assert [sample.location for sample in samples] == [
        str(tmp_path / "new"),
        *(str(tmp_path / "new" / name) for name in ("a", "b", "clip.mp4")),
    ]
    assert [len(sample.images) for sample in samples] == [2, 4, 1, 3]
    (tmp_path / "rows.csv").write_text("path,sample,frame,note\n1.png,x,2,n\n0.png,y,1,m\n2.png,x,1,n\n")
    rows = find_samples([tmp_path / "rows.csv"], sample_options(DataConfig("", sample="folder")))
    assert names(rows) == [["2.png", "1.png"], ["0.png"]]
    assert [sample.extra["note"] for sample in rows] == ["n", "m"]
    assert names(find_samples([tmp_path / "new" / "a" / "000.png"], {})) == [["000.png"]]


def test_columns_that_a_model_needs_are_asked_for(tmp_path):
    made_with = sample_options(DataConfig("", images="front,back"))
    (tmp_path / "table.csv").write_text("front,back,label\na.png,,x\n")
    (sample,) = find_samples([tmp_path / "table.csv"], made_with)
    assert (names([sample]), sample.extra) == ([["a.png", None]], {"label": "x"})
    (tmp_path / "other.csv").write_text("front,side\na.png,b.png\n")
    with pytest.raises(UsageError, match="`images` back: there is no such column"):
        find_samples([tmp_path / "other.csv"], made_with)
    with pytest.raises(UsageError, match="this model takes samples with the images front, back: give a table"):
        find_samples([tmp_path], made_with)
    for nothing in ([tmp_path / "none"], []):
        with pytest.raises(UsageError):
            find_samples(nothing, {})


@pytest.mark.parametrize(("name", "options"), [("ridge", {"aggregate": "concat"}), ("mil", {"fit_epochs": 2})])
def test_a_model_says_of_samples_what_it_said_in_its_test(probe, pairs, tmp_path, name, options):
    data = DataConfig("pairs.csv")
    experiment = Experiment(probe.extractor, pairs, 0, tmp_path / "seed-0", data=data)
    (result,) = run_heads(experiment, (name,), HeadConfig(head=name, cv=0, **options))
    model = tmp_path / "seed-0" / f"{result.method}-{name}"
    tested = Result.load(model).predictions
    test = experiment.split("test")
    (tmp_path / "damaged.jpg").write_bytes(b"nothing")
    lines = [",".join(view.location if view else "" for view in views) for views in test.images]
    table = tmp_path / "new.csv"
    table.write_text("\n".join(["path,path_2", *lines, f"{tmp_path / 'damaged.jpg'},"]))
    predicted, unreadable = predict_images(model, [table])
    assert [entry.location for entry in predicted] == test.locations
    activated = np.stack([entry.activated for entry in predicted])
    assert np.allclose(activated, tested.statistics["probabilities"], atol=1e-4)
    assert sum(entry.is_unlike for entry in predicted) <= len(predicted) / 2
    assert [location for location, _ in unreadable] == [str(tmp_path / "damaged.jpg")]

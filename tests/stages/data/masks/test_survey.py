import os

import numpy as np
import pytest
from PIL import Image

from stages.data.masks import survey
from stages.data.masks.survey import image_shape, survey_masks


def saved(path, values):
    Image.fromarray(np.array(values, dtype=np.uint8)).save(path)
    return str(path)


@pytest.fixture
def reads(monkeypatch):
    """The locations of masks that were decoded."""
    read, locations = survey.stored_mask, []
    monkeypatch.setattr(survey, "stored_mask", lambda location: locations.append(location) or read(location))
    return locations


def test_each_mask_is_decoded_once_as_long_as_its_file_stays_as_it_is(tmp_path, reads):
    mask = saved(tmp_path / "a.png", [[0, 1]])
    for _ in range(2):
        [facts], _ = survey_masks([mask])
        assert facts.counts == {0: 1, 1: 1}
    assert len(reads) == 1
    saved(tmp_path / "a.png", [[0, 2]])
    os.utime(mask, ns=(1, 1))
    assert survey_masks([mask])[0][0].counts == {0: 1, 2: 1}


def test_masks_that_cannot_be_read_are_told_from_the_others_with_their_reasons(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    paths = [saved(tmp_path / "a.png", [[0, 1]]), str(tmp_path / "broken.png"), str(tmp_path / "gone.png")]
    facts, reasons = survey_masks(paths, progress=lambda portions: portions)
    assert [found is None for found in facts] == [False, True, True]
    assert reasons[paths[2]] == "no such file"
    assert list(reasons) == paths[1:]


@pytest.mark.parametrize(("orientation", "shape"), [(None, (3, 5)), (3, (3, 5)), (6, (5, 3))])
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_an_image_is_as_large_as_it_is_seen_and_no_pixel_is_decoded_for_it(
    tmp_path, monkeypatch, orientation, shape, ending
):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new("RGB", (5, 3)).save(tmp_path / f"a.{ending}", exif=exif)
    if ending in ("jpg", "png"):
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("pixels were decoded"))
    assert image_shape(str(tmp_path / f"a.{ending}")) == shape


def test_what_is_no_image_has_no_size(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    assert image_shape(str(tmp_path / "a.jpg")) is image_shape(str(tmp_path / "gone.jpg")) is None

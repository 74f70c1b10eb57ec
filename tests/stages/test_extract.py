from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.errors import CacheError, DataError, UsageError
from stages.data import load_manifest, read_image
from stages.extract import extract, prepare, read_features, readable_samples
from stages.options import Data, Features
from tests.photographs import make_folder, photograph


@pytest.fixture
def small(tmp_path):
    """The embedded backbone at a size that is quick."""
    return Features(image_size=64, cache=tmp_path / "cache", batch_size=16)


def count_forwards(extractor):
    """Count the images that really enter the first convolution of the backbone."""
    first = next(module for module in extractor.trunk.modules() if isinstance(module, torch.nn.Conv2d))
    seen = []
    first.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    return seen


def test_every_image_goes_through_the_backbone_once_ever(photographs, small):
    manifest = load_manifest(Data(str(photographs)))
    extractor = prepare(small)
    seen = count_forwards(extractor)
    first = extract(extractor, manifest)
    assert (first.extracted, first.hits, sum(seen)) == (72, 0, 72)
    again = extract(extractor, manifest)
    assert (again.extracted, again.hits, sum(seen)) == (0, 72, 72)

    later = prepare(small)  # as another process would
    seen = count_forwards(later)
    assert extract(later, manifest).extracted == 0
    read_features(later, manifest)
    assert seen == []


def test_cached_features_are_what_the_network_computes(photographs, small):
    manifest = load_manifest(Data(str(photographs)))
    extractor = prepare(replace(small, dtype="float32"))
    extract(extractor, manifest)
    features = read_features(extractor, manifest)
    backbone = extractor.backbone
    for index in (0, 40, 71):
        image = backbone.preprocessing.render(read_image(manifest.locations[index]))
        with torch.inference_mode():
            whole = backbone.module.forward_features(backbone.preprocessing.normalise(image[None]))
            expected = backbone.module.forward_head(whole, pre_logits=True)[0].numpy()
        assert np.allclose(features[index], expected, atol=1e-4)


def test_relabelled_moved_and_copied_images_cost_nothing(photographs, small, tmp_path):
    extract(prepare(small), load_manifest(Data(str(photographs))))
    moved = tmp_path / "elsewhere"
    for path in photographs.rglob("*.jpg"):
        target = moved / ("warm" if path.parent.name == "fire" else "cold") / f"{path.parent.name}-{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (moved / "warm" / "copy.jpg").write_bytes((photographs / "fire" / "000.jpg").read_bytes())
    report = extract(prepare(small), load_manifest(Data(str(moved)), seed=5))
    assert (report.extracted, report.hits) == (0, 72)


def test_an_edited_image_is_extracted_again(small, tmp_path):
    folder = make_folder(tmp_path / "own", per_class=6)
    extract(prepare(small), load_manifest(Data(str(folder))))
    photograph((0, 0, 0), 77).save(folder / "sea" / "003.jpg")
    report = extract(prepare(small), load_manifest(Data(str(folder))))
    assert (report.extracted, report.hits) == (1, 17)


def test_bad_images_are_skipped_listed_and_not_tried_again(small, tmp_path):
    folder = make_folder(tmp_path / "own", per_class=6)
    whole = (folder / "sea" / "001.jpg").read_bytes()
    (folder / "sea" / "001.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "fire" / "002.jpg").write_text("this is no photograph")
    (folder / "leaf" / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    manifest = load_manifest(Data(str(folder)))
    report = extract(prepare(small), manifest)
    assert report.extracted == 16
    assert sorted(location.rsplit("/", 1)[1] for location, _ in report.skipped) == [
        "001.jpg",
        "002.jpg",
        "dangling.jpg",
    ]
    assert all(reason for _, reason in report.skipped)

    extractor = prepare(small)
    seen = count_forwards(extractor)
    again = extract(extractor, manifest)
    assert (again.extracted, again.hits, len(again.skipped), seen) == (0, 16, 3, [])
    readable = readable_samples(extractor, manifest)
    assert len(readable) == 16
    assert read_features(extractor, readable).shape == (16, 1280)


def test_a_folder_of_only_bad_images_is_an_error(small, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "bad" / name).mkdir(parents=True)
        for index in range(3):
            (tmp_path / "bad" / name / f"{index}.jpg").write_text(f"not an image {name}{index}")
    with pytest.raises(DataError, match="none of the 6"):
        extract(prepare(small), load_manifest(Data(str(tmp_path / "bad"))))


def test_features_that_are_not_there_say_how_to_get_them(photographs, small):
    with pytest.raises(CacheError, match=r"72 of 72 images.*run `extract`"):
        read_features(prepare(small), load_manifest(Data(str(photographs))))


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        ({"cut": "blocks.4", "pool": "avg"}, (112,)),
        ({"cut": "blocks.4", "pool": "avgmax"}, (224,)),
        ({"cut": "blocks.4", "pool": "none"}, (112, 4, 4)),
    ],
)
def test_cut_and_pooling_shape_the_rows_and_have_caches_of_their_own(photographs, small, change, shape):
    manifest = load_manifest(Data(str(photographs)))
    default = extract(prepare(small), manifest)
    other = extract(prepare(replace(small, **change)), manifest)
    assert other.extracted == 72
    assert other.row_shape == shape
    assert other.fingerprint != default.fingerprint


def test_what_does_not_change_a_feature_does_not_change_the_fingerprint(small, tmp_path):
    fingerprint = prepare(small).cache.spec.fingerprint
    same = replace(small, batch_size=7, workers=1, device="cpu", strict=True, cache=tmp_path / "other")
    assert prepare(same).cache.spec.fingerprint == fingerprint
    for change in (
        {"image_size": 96},
        {"weights": "none"},
        {"precision": "bf16"},
        {"dtype": "float32"},
        {"cut": "blocks.5"},
    ):
        assert prepare(replace(small, **change)).cache.spec.fingerprint != fingerprint


def test_half_precision_trunk_stays_close(photographs, small):
    manifest = load_manifest(Data(str(photographs))).select(range(8))
    exact, half = (prepare(replace(small, precision=precision)) for precision in ("fp32", "bf16"))
    for extractor in (exact, half):
        extract(extractor, manifest)
    a, b = (torch.from_numpy(read_features(extractor, manifest)).float() for extractor in (exact, half))
    assert not torch.equal(a, b)
    assert torch.cosine_similarity(a, b).min() > 0.9


def test_an_unknown_device_is_refused(small):
    with pytest.raises(UsageError, match="--device"):
        prepare(replace(small, device="toaster"))

import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from cache import DigestCache
from cache.errors import CacheError, CacheInputError, DataError, UsageError, WeightsError
from cache.keys import KEY_MEMO, key_of_file
from stages.config.data import DataConfig
from stages.config.features import OF_THE_MACHINE, FeatureConfig
from stages.data.manifest import load_manifest
from stages.data.sources.open_image import read_image
from stages.extraction.extract import ImagesChangedError, extract
from stages.extraction.extractor import build_extractor
from stages.extraction.read_features import drop_unreadable, read_features
from stages.network.backbones.user_module import backbone_from_module
from tests.own_network import OwnNetwork
from tests.photographs import make_folder, photograph


@pytest.fixture
def small(tmp_path):
    """The embedded backbone at a size that is quick."""
    return FeatureConfig(image_size=64, cache=tmp_path / "cache", extract_batch_size=16)


def count_forwards(extractor):
    """Count the images of each pass through the backbone; on a GPU, of each launch of what was recorded of it."""
    seen = []
    steps = extractor._passes._steps
    first = steps[0]
    steps[0] = lambda images: seen.append(len(images)) or first(images)
    return seen


def test_every_image_goes_through_the_backbone_once_ever(photographs, small):
    manifest = load_manifest(DataConfig(str(photographs)))
    extractor = build_extractor(small)
    seen = count_forwards(extractor)
    first = extract(extractor, manifest)
    assert (first.extracted, first.hits, sum(seen)) == (72, 0, 80)  # the last batch of 16 is filled up with black
    second = extract(extractor, manifest)
    assert (second.extracted, second.hits, sum(seen)) == (0, 72, 80)

    later = build_extractor(small)  # as another process would
    seen = count_forwards(later)
    assert extract(later, manifest).extracted == 0
    read_features(later, manifest)
    assert seen == []


def test_cached_features_are_what_the_network_computes(photographs, small):
    manifest = load_manifest(DataConfig(str(photographs)))
    extractor = build_extractor(replace(small, storage_dtype="float32", precision="fp32", decode_on="cpu"))
    extract(extractor, manifest)
    features = read_features(extractor, manifest)
    backbone = extractor.backbone
    for index in (0, 40, 71):
        image = backbone.preprocessing.render(read_image(manifest.locations[index]))
        with torch.inference_mode():
            feature_map = backbone.module.forward_features(backbone.preprocessing.normalize(image[None]))
            expected = backbone.module.forward_head(feature_map, pre_logits=True)[0].numpy()
        assert np.allclose(features[index], expected, atol=1e-4)


def test_relabeled_moved_and_copied_images_cost_nothing(photographs, small, tmp_path):
    extract(build_extractor(small), load_manifest(DataConfig(str(photographs))))
    moved = tmp_path / "elsewhere"
    for path in photographs.rglob("*.jpg"):
        target = moved / ("warm" if path.parent.name == "fire" else "cold") / f"{path.parent.name}-{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (moved / "warm" / "copy.jpg").write_bytes((photographs / "fire" / "000.jpg").read_bytes())
    report = extract(build_extractor(small), load_manifest(DataConfig(str(moved)), seed=5))
    assert (report.extracted, report.hits) == (0, 72)


def test_an_edited_image_is_extracted_again(small, tmp_path):
    folder = make_folder(tmp_path / "own", per_class=6)
    extract(build_extractor(small), load_manifest(DataConfig(str(folder))))
    photograph((0, 0, 0), 77).save(folder / "sea" / "003.jpg")
    report = extract(build_extractor(small), load_manifest(DataConfig(str(folder))))
    assert (report.extracted, report.hits) == (1, 17)


def test_bad_images_are_skipped_listed_and_not_tried_again(small, tmp_path):
    folder = make_folder(tmp_path / "own", per_class=6)
    content = (folder / "sea" / "001.jpg").read_bytes()
    (folder / "sea" / "001.jpg").write_bytes(content[: len(content) // 2])
    (folder / "fire" / "002.jpg").write_text("this is no photograph")
    (folder / "leaf" / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    manifest = load_manifest(DataConfig(str(folder)))
    report = extract(build_extractor(small), manifest)
    assert report.extracted == 16
    assert sorted(location.rsplit("/", 1)[1] for location, _ in report.skipped) == [
        "001.jpg",
        "002.jpg",
        "dangling.jpg",
    ]
    assert all(reason for _, reason in report.skipped)

    extractor = build_extractor(small)
    seen = count_forwards(extractor)
    second = extract(extractor, manifest)
    assert (second.extracted, second.hits, len(second.skipped), seen) == (0, 16, 3, [])
    readable = drop_unreadable(extractor, manifest)
    assert len(readable) == 16
    assert read_features(extractor, readable).shape == (16, 1280)


def test_images_that_one_cut_has_rejected_are_counted_once_where_another_is_added(small, tmp_path):
    folder = make_folder(tmp_path / "photos", 2)
    next(folder.iterdir()).joinpath("bad.jpg").write_text("no image")
    manifest = load_manifest(DataConfig(str(folder)))
    extract(build_extractor(small), manifest)
    both = extract(build_extractor(replace(small, cut="blocks.4,auto")), manifest)
    assert (both.extracted, both.hits, both.extracted_by_others, len(both.skipped)) == (6, 0, 0, 1)
    again = extract(build_extractor(replace(small, cut="blocks.4,auto")), manifest)
    assert (again.extracted, again.hits, again.extracted_by_others, len(again.skipped)) == (0, 6, 0, 1)


def test_files_that_change_after_their_keys_were_made_are_told_and_read_the_next_time(photographs, small, tmp_path):
    folder = tmp_path / "changing"
    shutil.copytree(photographs, folder)
    manifest = load_manifest(DataConfig(str(folder)))
    whole = {Path(location): Path(location).read_bytes() for location in manifest.locations}
    cut, gone = sorted(whole)[:2]
    cut.write_bytes(whole[cut][:200])
    gone.unlink()
    for _ in range(2):
        with pytest.raises(ImagesChangedError, match=r"^2 of the images changed or went before they") as told:
            extract(build_extractor(small), manifest)
        assert f"{gone}: no such file" in str(told.value)
        assert build_extractor(small).unreadable() == {}
    cut.write_bytes(whole[cut])
    gone.write_bytes(whole[gone])
    report = extract(build_extractor(small), manifest)
    assert (report.extracted, report.skipped) == (2, [])
    assert report.hits == len(manifest) - 2


@pytest.mark.parametrize("while_at_work", [False, True])
@pytest.mark.parametrize("views", [1, 3])
def test_an_image_that_changes_and_still_decodes_is_told_and_has_no_row_of_another_image(
    photographs, small, tmp_path, monkeypatch, while_at_work, views
):
    monkeypatch.setattr("cache.keys._CLOCK_NS", 0)  # what is older than its key by a moment counts as older
    folder, small = tmp_path / "changing", replace(small, views=views, extract_batch_size=4)
    shutil.copytree(photographs, folder)
    manifest = load_manifest(DataConfig(str(folder)))
    pristine = build_extractor(replace(small, cache=tmp_path / "pristine"))
    extract(pristine, manifest)
    hashed, changed = [], Path(manifest.locations[-1])
    before, other = changed.read_bytes(), Path(manifest.locations[0]).read_bytes()
    monkeypatch.setattr(
        "stages.data.sources.changed_files.key_of_file", lambda path: hashed.append(path) or key_of_file(path)
    )
    extractor = build_extractor(small)
    if while_at_work:
        written = []
        extractor.trunk.register_forward_hook(
            lambda *_: (written or written.append(changed.write_bytes(other)), None)[1]
        )
    else:
        changed.write_bytes(other)
    with pytest.raises(ImagesChangedError, match=r"^1 of the images changed or went .*: it holds other bytes than"):
        extract(extractor, manifest)
    assert set(hashed) == {str(changed)}, "no other file was read again"
    for view in range(views):
        assert extractor.taps[0].cache_of_view(view).missing(manifest.keys, view) == [manifest.keys[-1]]
    assert extractor.unreadable() == {}
    now = load_manifest(DataConfig(str(folder), allow_leakage=True))  # it is a copy of the first one
    assert extract(build_extractor(small), now).hits == len(now) - 1
    changed.write_bytes(before)
    again = load_manifest(DataConfig(str(folder)))
    extract(build_extractor(small), again)
    for view in range(views):
        rows = [read_features(built, again, view) for built in (pristine, build_extractor(small))]
        assert np.array_equal(*rows)


def test_a_file_that_was_closed_after_its_key_was_remembered_is_left_out_the_second_time(
    photographs, small, tmp_path, monkeypatch
):
    folder = tmp_path / "closing"
    shutil.copytree(photographs, folder)
    monkeypatch.setattr("cache.keys._CLOCK_NS", -(1 << 62))  # as if the files had long been as they are
    memo = DigestCache(small.cache / KEY_MEMO)
    first = load_manifest(DataConfig(str(folder)), memo=memo)
    closed = first.locations[0]

    def refusing(opened):
        def refuse(path, *arguments, **options):
            if str(path) == closed:
                raise PermissionError(13, "Permission denied", closed)
            return opened(path, *arguments, **options)

        return refuse

    monkeypatch.setattr(Path, "open", refusing(Path.open))  # and so `read_bytes`
    monkeypatch.setattr(os, "open", refusing(os.open))  # by which files are read for a GPU
    remembered = load_manifest(DataConfig(str(folder)), memo=memo)
    assert remembered.keys == first.keys
    with pytest.raises(ImagesChangedError, match=r"^1 of the images changed or went .*: Permission denied"):
        extract(build_extractor(small), remembered)
    again = load_manifest(DataConfig(str(folder)), memo=memo)
    assert again.unreadable == [(closed, "Permission denied")]
    assert extract(build_extractor(small), again).skipped == [(closed, "Permission denied")]


def test_a_folder_of_only_bad_images_is_an_error(small, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "bad" / name).mkdir(parents=True)
        for index in range(3):
            (tmp_path / "bad" / name / f"{index}.jpg").write_text(f"not an image {name}{index}")
    with pytest.raises(DataError, match="none of the 6"):
        extract(build_extractor(small), load_manifest(DataConfig(str(tmp_path / "bad"))))


def test_features_that_are_not_there_say_how_to_get_them(photographs, small):
    with pytest.raises(CacheError, match=r"72 of 72 images.*run `extract`"):
        read_features(build_extractor(small), load_manifest(DataConfig(str(photographs))))


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        ({"cut": "blocks.4", "pool": "avg"}, (112,)),
        ({"cut": "blocks.4", "pool": "avgmax"}, (224,)),
        ({"cut": "blocks.4", "pool": "none"}, (112, 4, 4)),
    ],
)
def test_cut_and_pooling_shape_the_rows_and_have_caches_of_their_own(photographs, small, change, shape):
    manifest = load_manifest(DataConfig(str(photographs)))
    default = extract(build_extractor(small), manifest)
    other = extract(build_extractor(replace(small, **change)), manifest)
    assert other.extracted == 72
    assert other.row_shapes == [shape]
    assert other.fingerprints != default.fingerprints


def test_what_does_not_change_a_feature_does_not_change_the_fingerprint(small, tmp_path):
    small = replace(small, precision="fp32", decode_on="cpu")  # as a CPU does it by itself, on any device
    fingerprint = build_extractor(small).fingerprint
    same = replace(small, extract_batch_size=7, decode_threads=1, device="cpu", strict=True, cache=tmp_path / "other")
    assert build_extractor(same).fingerprint == fingerprint
    assert build_extractor(replace(small, views=3, augment="strong")).fingerprint == fingerprint
    for change in (
        {"decoding": "reduced"},
        {"image_size": 96},
        {"weights": "none"},
        {"precision": "bf16"},
        {"storage_dtype": "float32"},
        {"cut": "blocks.5"},
        {"crop_mode": "squash"},
    ):
        assert build_extractor(replace(small, **change)).fingerprint != fingerprint


def test_half_precision_trunk_stays_close(photographs, small):
    manifest = load_manifest(DataConfig(str(photographs))).select(range(8))
    exact, half = (build_extractor(replace(small, precision=precision)) for precision in ("fp32", "bf16"))
    for extractor in (exact, half):
        extract(extractor, manifest)
    a, b = (torch.from_numpy(read_features(extractor, manifest)).float() for extractor in (exact, half))
    assert not torch.equal(a, b)
    assert torch.cosine_similarity(a, b).min() > 0.9


def test_several_cuts_take_one_pass_and_are_cached_each_for_itself(photographs, small):
    manifest = load_manifest(DataConfig(str(photographs)))
    several = build_extractor(replace(small, cut="blocks.4,auto,blocks.2", storage_dtype="float32"))
    seen = count_forwards(several)
    report = extract(several, manifest)
    assert sum(seen) == 80  # 72 images, and 8 that fill the last batch
    assert report.row_shapes == [(112,), (1280,), (40,)]
    joined = read_features(several, manifest)
    assert joined.shape == (72, 112 + 1280 + 40)
    start = 0
    for name, width in (("blocks.4", 112), ("auto", 1280), ("blocks.2", 40)):
        alone = build_extractor(replace(small, cut=name, storage_dtype="float32"))
        assert extract(alone, manifest).hits == 72
        assert np.array_equal(read_features(alone, manifest), joined[:, start : start + width])
        computed_alone = build_extractor(replace(small, cut=name, storage_dtype="float32", cache=small.cache / "alone"))
        extract(computed_alone, manifest)
        assert np.allclose(read_features(computed_alone, manifest), read_features(alone, manifest), atol=1e-5)
        start += width


def test_of_several_cuts_only_what_is_missing_is_stored(photographs, small):
    manifest = load_manifest(DataConfig(str(photographs)))
    extract(build_extractor(small), manifest.select(range(40)))
    extractor_of_both = build_extractor(replace(small, cut="auto,blocks.4"))
    report = extract(extractor_of_both, manifest)
    assert (report.extracted, report.hits) == (72, 0)
    assert [sum(shard.rows for shard in tap.cache.shards) for tap in extractor_of_both.taps] == [72, 72]
    assert extract(extractor_of_both, manifest).hits == 72


def test_maps_of_several_cuts_cannot_be_joined_and_a_cut_named_twice_is_refused(small):
    extractor = build_extractor(replace(small, cut="blocks.4,blocks.2", pool="none"))
    with pytest.raises(UsageError, match="`pool`"):
        _ = extractor.row_shape
    with pytest.raises(UsageError, match="one cut only"):
        _ = extractor.cut
    with pytest.raises(UsageError, match="twice"):
        build_extractor(replace(small, cut="blocks.4,blocks.4"))
    with pytest.raises(UsageError, match="between two commas"):
        replace(small, cut="blocks.4,,auto")


def test_views_are_rendered_from_one_decoded_image_and_always_the_same(photographs, small, tmp_path, monkeypatch):
    manifest = load_manifest(DataConfig(str(photographs)))
    decoded = []

    def counting(location, reading, remarks):
        decoded.append(location)
        return read_image(location, reading, remarks)

    monkeypatch.setattr("stages.data.image_stream.read_image", counting)
    small = replace(small, decode_on="cpu")  # by what is counted
    extractor = build_extractor(replace(small, views=3, augment="medium", storage_dtype="float32"))
    report = extract(extractor, manifest)
    assert (report.extracted, report.views, len(decoded)) == (72, 3, 72)
    views = [read_features(extractor, manifest, view) for view in range(3)]
    assert not np.allclose(views[1], views[2], atol=1e-2)

    # more of them later cost what is new, and come out as they would in any other order and batch
    more = build_extractor(replace(small, views=4, augment="medium", storage_dtype="float32"))
    seen = count_forwards(more)
    assert extract(more, manifest).extracted == 72
    assert sum(seen) == 80
    elsewhere = build_extractor(
        replace(more.options, cache=tmp_path / "elsewhere", extract_batch_size=16, decode_threads=3)
    )
    extract(elsewhere, manifest.select(range(71, -1, -1)))
    for view in range(4):
        assert np.array_equal(read_features(more, manifest, view), read_features(elsewhere, manifest, view))

    # the evaluation view is that of every other run
    clean = build_extractor(replace(small, storage_dtype="float32"))
    assert extract(clean, manifest).hits == 72
    assert np.array_equal(read_features(clean, manifest), views[0])


def test_a_view_is_what_the_network_computes_of_the_augmented_image(photographs, small):
    manifest = load_manifest(DataConfig(str(photographs))).select(range(4))
    small = replace(small, precision="fp32", decode_on="cpu")  # a GPU that decodes also renders, to a grey level
    extractor = build_extractor(replace(small, views=3, augment="strong", storage_dtype="float32"))
    extract(extractor, manifest)
    request = extractor.request(manifest.locations[2], manifest.keys[2], views=(2,))
    rendered = request.render(read_image(request.location))
    expected = extractor.features(rendered)[0].cpu().numpy()
    assert np.allclose(read_features(extractor, manifest, view=2)[2], expected, atol=1e-4)


def test_the_same_augmentation_in_other_words_has_the_same_views(small):
    written = ("crop(0.5)+flip", "crop + flip", "crop(.50)+flip", "crop(0.4)+flip")
    fingerprints = [
        build_extractor(replace(small, views=2, augment=augment)).taps[0].view_cache.spec.fingerprint
        for augment in written
    ]
    assert len(set(fingerprints[:3])) == 1
    assert fingerprints[3] != fingerprints[0]


def test_other_augmentation_gives_other_views_and_none_gives_none(photographs, small):
    light, strong = (build_extractor(replace(small, views=2, augment=augment)) for augment in ("light", "strong"))
    assert light.taps[0].view_cache.path != strong.taps[0].view_cache.path
    with pytest.raises(UsageError, match="`views` needs an augmentation"):
        replace(small, views=2, augment="none")


def test_images_larger_than_needed_may_be_decoded_at_reduced_scale(small, tmp_path):
    folder = tmp_path / "large"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for index in range(4):
            photograph((200, 80 * (name == "b"), 40), index, side=700).save(folder / name / f"{index}.jpg", quality=92)
    manifest = load_manifest(DataConfig(str(folder)))
    small = replace(small, decode_on="cpu")  # a GPU decodes at full size
    full, reduced = (build_extractor(replace(small, decoding=decoding)) for decoding in ("full", "reduced"))
    rows = []
    for extractor in (full, reduced):
        extract(extractor, manifest)
        rows.append(torch.from_numpy(read_features(extractor, manifest)).float())
    assert not torch.equal(*rows)
    assert torch.cosine_similarity(*rows).min() > 0.95


def test_what_was_busy_is_told(photographs, small):
    extractor = build_extractor(replace(small, device="cpu"))  # of a GPU: test_gpu_engine.py
    report = extract(extractor, load_manifest(DataConfig(str(photographs))))
    assert set(report.shares) == {"decode", "forward", "write"}
    assert all(0 < share < 1.2 for share in report.shares.values())


def test_an_unknown_device_is_refused(small):
    with pytest.raises(UsageError, match="`device`"):
        build_extractor(replace(small, device="toaster"))


@pytest.mark.parametrize(
    ("bias", "error", "message"),
    [
        (
            math.nan,
            WeightsError,
            r"NaN or infinity for 8 images: .*/\w+/\d+\..* stands in features\.2\.bias; .*`weights`",
        ),
        (
            70_000.0,
            CacheInputError,
            r"beyond 65504, where float16 ends, for 8 images: .*/\w+/\d+.*`storage_dtype` float32",
        ),
    ],
)
def test_features_that_cannot_be_stored_are_told_by_files_and_weights(tmp_path, bias, error, message):
    network = OwnNetwork()
    with torch.no_grad():
        network.features[2].bias.fill_(bias)
    options = FeatureConfig(cut="features", cache=tmp_path / "cache", extract_batch_size=8)
    extractor = build_extractor(options, backbone_from_module(network, image_size=32))
    folder = make_folder(tmp_path / "photographs", 4, ("leaf", "sea"))
    with pytest.raises(error, match=message):
        extract(extractor, load_manifest(DataConfig(str(folder))))


@pytest.mark.parametrize("engine", ["cores", "accelerator"])
def test_what_there_is_to_say_of_the_files_is_counted_whatever_the_engine(small, tmp_path, engine):
    folder = make_folder(tmp_path / "own", per_class=4)
    for index, values in enumerate([np.zeros((2, 9, 9), np.uint8), np.arange(400, dtype=np.uint16).reshape(20, 20)]):
        tifffile.imwrite(folder / "sea" / f"{index}.tif", values, photometric="minisblack")
    photograph((40, 80, 190), 0).resize((120, 80)).save(folder / "sea" / "wide.jpg")
    extractor = build_extractor(replace(small, engine=engine, device="cpu"))  # of which both are
    report = extract(extractor, load_manifest(DataConfig(str(folder))))
    pages, few_levels, cropped = report.remarks
    assert cropped.startswith("1 image of which the network sees the middle")
    assert pages.startswith("1 file of several pages or frames: the first was taken")
    assert few_levels.startswith("1 of 1 images with more than 8 bits use fewer than 32 of 256 levels")


OF_THE_MACHINE_IN_OTHER_WORDS = {
    "cache": "elsewhere",
    "compression": "gzip",
    "extract_batch_size": 3,
    "decode_threads": 1,
    "device": "cpu",
    "deterministic": True,
    "strict": True,
    "force": True,
    "exact_spec": True,
}


@pytest.mark.parametrize("option", OF_THE_MACHINE)
def test_options_of_the_machine_say_nothing_of_what_features_are(small, tmp_path, monkeypatch, option):
    monkeypatch.setattr(
        "torch.use_deterministic_algorithms", lambda mode: None
    )  # until the process ends, for all tests
    small = replace(small, precision="fp32", decode_on="cpu")  # as a CPU does it by itself, on any device
    value = OF_THE_MACHINE_IN_OTHER_WORDS[option]
    changed = replace(small, **{option: tmp_path / value if option == "cache" else value})
    assert getattr(changed, option) != getattr(FeatureConfig(), option)
    assert build_extractor(changed).fingerprint == build_extractor(small).fingerprint

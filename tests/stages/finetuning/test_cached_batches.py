"""Training from cached views: what the upper part is given, and what is not done any more."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.errors import UsageError
from stages.config.finetune import FinetuneConfig
from stages.data.sources.open_image import read_image
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.finetuning.cached_batches import CachedBatches, boundary_extractor, extract_views
from stages.finetuning.finetune import finetune
from stages.finetuning.problem import FinetuneProblem
from stages.finetuning.transfer_model import build_transfer_model
from stages.network.graph.trunk import FrozenTrunk

OPTIONS = FinetuneConfig(unfreeze="blocks.5", from_cache=True, finetune_batch_size=8, epochs=2)


@pytest.fixture
def prepared(probe, tmp_path):
    """Extractor with three views, upper part, and the two manifests."""
    options = replace(probe.extractor.options, views=3, augment="medium", cache=tmp_path / "cache")
    extractor = replace(probe.extractor, options=options)
    upper = build_transfer_model(extractor, probe.head, OPTIONS)
    splits = [probe.manifest.select(probe.manifest.indices(split)) for split in ("train", "val")]
    return extractor, upper, *splits


def test_each_epoch_shows_one_cached_view_of_each_image(prepared, probe):
    extractor, upper, train, val = prepared
    maps = boundary_extractor(extractor, upper)
    train_extraction, val_extraction = extract_views(maps, train, val)
    assert (train_extraction.extracted, val_extraction.extracted) == (len(train), len(val))
    source = CachedBatches(FinetuneProblem(extractor, probe.manifest, probe.head, OPTIONS, 1), maps)
    possible = np.stack([maps.taps[0].cache_of_view(view).read(train.keys, view) for view in range(3)])

    def shown(epoch):
        views = {}
        for inputs, labels in source.train(epoch, 0):
            for row, label in zip(inputs.cpu().numpy(), labels.tolist(), strict=True):
                view, index = np.argwhere((possible == row).all(axis=(2, 3, 4)))[0]
                assert train.targets[index] == label
                views[int(index)] = int(view)
        return views

    first, second = shown(1), shown(2)
    assert len(first) == source.batches * 8
    assert set(first.values()) == {0, 1, 2}
    common = first.keys() & second.keys()
    assert any(first[index] != second[index] for index in common)
    assert shown(1) == first


def test_a_cached_view_is_the_map_of_the_augmented_image_and_not_an_augmented_map(prepared):
    extractor, upper, train, val = prepared
    # a GPU that decodes also renders, to a grey level
    maps = boundary_extractor(build_extractor(replace(extractor.options, decode_on="cpu")), upper)
    extract_views(maps, train, val)
    request = maps.request(train.locations[4], train.keys[4], views=(2,))
    rendered = request.render(read_image(request.location))
    expected = upper.frozen(upper.normalize(rendered))[0]
    assert np.allclose(maps.taps[0].view_cache.read([train.keys[4]], 2)[0], expected.cpu().numpy(), atol=1e-4)


def test_an_epoch_can_be_begun_in_the_middle(prepared, probe):
    extractor, upper, train, val = prepared
    maps = boundary_extractor(extractor, upper)
    extract_views(maps, train, val)
    source = CachedBatches(FinetuneProblem(extractor, probe.manifest, probe.head, OPTIONS, 1), maps)
    whole, rest = list(source.train(2, 0)), list(source.train(2, 3))
    assert len(rest) == len(whole) - 3
    for (inputs, labels), (other_inputs, other_labels) in zip(whole[3:], rest, strict=True):
        assert torch.equal(inputs, other_inputs)
        assert torch.equal(labels, other_labels)


def test_once_cached_neither_images_nor_the_frozen_part_are_touched(prepared, probe, monkeypatch):
    extractor, _, train, val = prepared
    maps = boundary_extractor(extractor, build_transfer_model(extractor, probe.head, OPTIONS))
    extract_views(maps, train, val)

    def nobody(*_):
        raise AssertionError("an image was read")

    def no_forward(*_):
        raise AssertionError("the frozen part ran")

    monkeypatch.setattr(FrozenTrunk, "forward", no_forward)
    monkeypatch.setattr("stages.data.image_stream.read_image", nobody)
    monkeypatch.setattr("stages.finetuning.image_batches.read_image", nobody)
    tuned = finetune(
        FinetuneProblem(extractor, probe.manifest, probe.ignorant(), replace(OPTIONS, lr=1e-3, head_lr=1e-2), 0)
    )
    assert tuned.view_forwards == 3 * len(train) + len(val)
    assert tuned.fit.best.val_score > 0.8 > tuned.fit.history[0].val_score


def test_from_the_cached_evaluation_view_training_is_what_it_is_from_images(probe, tmp_path):
    options = replace(probe.extractor.options, augment="none", cache=tmp_path / "cache")
    extractor = replace(probe.extractor, options=options)
    trained = [
        finetune(
            FinetuneProblem(
                extractor, probe.manifest, probe.ignorant(), replace(OPTIONS, from_cache=from_cache, num_workers=0), 0
            )
        )
        for from_cache in (False, True)
    ]
    losses = [[epoch.val_loss for epoch in trained_result.fit.history] for trained_result in trained]
    assert np.allclose(*losses, rtol=0.01 if torch.cuda.is_available() else 1e-3)  # there torch trains in TF32
    assert losses[0][-1] < losses[0][0]


def test_only_what_the_cache_lacks_is_extracted(prepared):
    extractor, upper, train, val = prepared
    maps = boundary_extractor(extractor, upper)
    extract_views(maps, train, val)
    assert all(report.extracted == 0 for report in extract_views(maps, train, val))
    more = replace(maps, options=replace(maps.options, views=4))
    assert extract(more, train).extracted == len(train)


def test_without_a_frozen_part_there_is_nothing_to_cache(prepared, probe):
    extractor, _, _, _ = prepared
    with pytest.raises(UsageError, match=r"`from_cache`.*at the image"):
        finetune(FinetuneProblem(extractor, probe.manifest, probe.head, replace(OPTIONS, unfreeze="all"), 0))

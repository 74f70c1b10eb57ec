"""Stage 3 where each pixel has a class: maps of several depths, masks that are augmented with their images."""

import numpy as np
import pytest
import torch
from PIL import Image

from cache.errors import UsageError
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.data.images.preprocessing import stack_pixels
from stages.data.manifest import Manifest
from stages.data.masks.mask_classes import MaskClasses, read_mask
from stages.data.sources.open_image import read_image
from stages.extraction.extractor import build_extractor
from stages.finetuning.finetune import finetune, require_trainable
from stages.finetuning.masks import AugmentedMasks, mask_views
from stages.finetuning.predict_masks import mask_statistics
from stages.finetuning.problem import FinetuneProblem
from stages.finetuning.transfer_model import build_transfer_model
from stages.network.heads.lraspp import LRASPPMapHead
from stages.runtime.float32 import float32_products
from stages.tasks.dense import Dense
from stages.tasks.tiles import Tiling

CLASSES = MaskClasses(("left", "right", "dot"), False, ((0, 0), (1, 1), (2, 2), (255, 255)))
COLORS = np.array([[30, 30, 30], [220, 60, 60], [60, 60, 220]], np.uint8)
QUICK = FinetuneConfig(epochs=2, lr=1e-3, head_lr=1e-2, finetune_batch_size=4, num_workers=0, unfreeze="blocks.5")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("masks"), np.random.default_rng(0)
    for number in range(12):
        mask = (np.arange(72)[None] >= 36).astype(np.uint8).repeat(72, 0)
        top, left = rng.integers(0, 48, 2)
        mask[top : top + 24, left : left + 24] = 2
        Image.fromarray(COLORS[mask]).save(folder / f"{number}.png")
        mask[:4] = 255
        Image.fromarray(mask).save(folder / f"{number}.mask.png")
    return Manifest(
        [str(folder / f"{number}.png") for number in range(12)],
        np.array([str(folder / f"{number}.mask.png") for number in range(12)]),
        ["train"] * 8 + ["val"] * 4,
        [f"{number:032x}" for number in range(12)],
        Dense(CLASSES.names),
        mask_classes=CLASSES,
        target_keys=[f"{number:032x}" for number in range(12)],
    )


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    return build_extractor(
        FeatureConfig(
            cut="blocks.4,blocks.2,blocks.6",
            pool="none",
            image_size=64,
            crop_mode="squash",
            precision="fp32",
            augment="crop(0.5)+flip",
            cache=tmp_path_factory.mktemp("cache"),
        )
    )


@pytest.fixture
def head(extractor):
    torch.manual_seed(0)
    layout = extractor.map_layout
    return LRASPPMapHead((layout.width,), 3, layout.to_json(), dropout=0.0, width=8).eval()


@pytest.fixture
def images(samples, extractor):
    return stack_pixels([extractor.backbone.preprocessing.render(read_image(path)) for path in samples.locations[:3]])


@pytest.mark.parametrize("unfreeze", ["2", "blocks.5", "blocks.3", "blocks.2", "all", "head"])
def test_before_the_first_step_it_answers_what_the_head_on_cached_maps_answered(extractor, head, images, unfreeze):
    upper = build_transfer_model(extractor, head, FinetuneConfig(unfreeze=unfreeze))
    logits, _ = upper.logits(images)
    with torch.no_grad(), float32_products():
        expected = head.to(extractor.device)(extractor.features(images).to(extractor.device))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-3)


def test_maps_below_where_training_begins_stay_frozen_and_those_above_train(extractor, head, images):
    upper = build_transfer_model(extractor, head, FinetuneConfig(unfreeze="blocks.3"))
    assert [cut.alias for cut in upper.model.route.frozen] == ["blocks.2"]
    assert [cut.alias for cut in upper.model.route.trained] == ["blocks.4", "blocks"]
    assert upper.trained == ("blocks.6", "blocks.5", "blocks.4", "blocks.3")
    upper.model.train()
    upper.model(upper.frozen(upper.normalize(images))).sum().backward()
    trained = {name for name, parameter in upper.model.top.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[1] for name in trained} == {"3", "4", "5", "6"}


def test_it_learns_from_images_and_masks_and_leaves_what_is_frozen_as_it_was(extractor, head, samples):
    before = {name: value.clone() for name, value in extractor.backbone.module.state_dict().items()}
    result = finetune(FinetuneProblem(extractor, samples, head, QUICK, seed=0))
    assert result.fit.best.epoch > 0
    assert result.fit.best.val_score > result.fit.history[0].val_score + 0.1
    after = extractor.backbone.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    top = result.upper.model.top.state_dict()
    assert any(not torch.equal(before[name], value.cpu()) for name, value in top.items())


def test_a_mask_is_rendered_with_its_image_by_seed_epoch_and_key_and_thinned(extractor, samples):
    batches = AugmentedMasks(samples, (16, 16), extractor.augmentation, seed=3)
    image, mask = batches[2, 5]
    assert (image.shape, mask.shape, mask.dtype) == ((3, 64, 64), (16, 16), torch.uint8)
    again_image, again_mask = AugmentedMasks(samples, (16, 16), extractor.augmentation, seed=3)[2, 5]
    assert torch.equal(image, again_image)
    assert torch.equal(mask, again_mask)
    assert not torch.equal(batches[3, 5][0], image)
    shown = image[:, 2::4, 2::4].permute(1, 2, 0).float()
    nearest = torch.cdist(shown.flatten(0, 1), torch.from_numpy(COLORS).float()).argmin(1).view(16, 16)
    known = mask != 255
    assert (nearest == mask)[known].float().mean() > 0.9


def test_validation_sees_the_masks_of_the_evaluation_view(extractor, samples):
    views = mask_views(samples, [0, 9], extractor.backbone.preprocessing)
    assert views.shape == (2, 64, 64)
    assert views[:, :3].unique().tolist() == [255]
    assert set(views[:, 4:].unique().tolist()) == {0, 1, 2}


def test_what_it_answers_is_scored_on_every_pixel_of_the_masks_as_they_are_stored(extractor, head, samples):
    val = samples.select(samples.indices("val"))
    upper = build_transfer_model(extractor, head, QUICK)
    statistics = mask_statistics(extractor, upper, val)
    assert statistics.sum(axis=(1, 2)).tolist() == [72 * 72 - 4 * 72] * 4
    images = stack_pixels([extractor.backbone.preprocessing.render(read_image(path)) for path in val.locations])
    masks = [torch.from_numpy(read_mask(text, CLASSES)) for text in val.target_texts]
    activated = val.task.activate(upper.logits(images)[0], [mask.shape for mask in masks])
    assert np.abs(statistics - val.task.statistic(activated, masks)).sum() <= 8  # logits that are nearly equal
    tiled = mask_statistics(extractor, upper, val, Tiling(64, 64, 8))
    assert tiled.sum(axis=(1, 2)).tolist() == [72 * 72 - 4 * 72] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup": 0.4}, "`mixup` 0.4 blends two targets, and two masks have no blend"),
        ({"cutmix": 1.0}, "`cutmix` 1 blends two targets"),
        ({"tta": "flip"}, "`tta` flip averages what is said of images as a whole"),
        ({"from_cache": True}, "`from_cache` trains on cached views, whose masks"),
    ],
)
def test_what_masks_cannot_have_is_refused_before_anything_is_computed(extractor, samples, options, message):
    require_trainable(extractor, FinetuneConfig(unfreeze="2"), samples)
    with pytest.raises(UsageError, match=message):
        require_trainable(extractor, FinetuneConfig(unfreeze="2", **options), samples)

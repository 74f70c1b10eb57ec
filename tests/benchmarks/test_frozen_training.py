import torch
from torch import nn

from benchmarks.frozen_training import BATCH_SIZE, new_head, order, train


def test_training_on_images_and_on_their_cached_features_ends_in_the_same_head():
    torch.manual_seed(1)
    trunk = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).requires_grad_(False)
    images = {"train": torch.rand(20, 3, 8, 8), "val": torch.rand(10, 3, 8, 8)}
    labels = {split: torch.arange(len(split_images)) % 2 for split, split_images in images.items()}
    features = {split: trunk(split_images) for split, split_images in images.items()}

    def batches(inputs):
        def of_epoch(split, epoch):
            for indices in torch.tensor(order(split, epoch, len(labels[split]))).split(BATCH_SIZE):
                yield inputs[split][indices], labels[split][indices]

        return of_epoch

    on_images, on_features = new_head(8, 2), new_head(8, 2)
    accuracy = train(nn.Sequential(trunk, on_images), on_images, batches(images), epochs=3)
    assert train(on_features, on_features, batches(features), epochs=3) == accuracy
    torch.testing.assert_close(on_images.weight, on_features.weight)
    assert not torch.equal(on_images.weight, new_head(8, 2).weight)


def test_each_epoch_sees_every_training_image_in_an_order_of_its_own():
    first, second = order("train", 0, 12), order("train", 1, 12)
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert order("train", 0, 12) == first

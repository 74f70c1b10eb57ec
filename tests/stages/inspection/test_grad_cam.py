"""Grad-CAM against its formula, in every layout, and nothing where there is nothing to show."""

import numpy as np
import pytest
import torch

from stages.inspection.grad_cam import TappedMap, place_evidence, scores_of, strengths_of

MAPS = torch.rand(3, 6, 4, 5, generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.randn(6, 2, generator=torch.Generator().manual_seed(1)) + 0.6
LAYOUTS = {
    "nchw": (lambda maps: maps, (2, 3)),
    "nhwc": (lambda maps: maps.permute(0, 2, 3, 1), (1, 2)),
}


def grad_cam(maps, outputs, classes, layout):
    """What a head says of maps, as the page has it."""
    leaves = maps.detach().requires_grad_()
    found = place_evidence(scores_of(outputs(leaves), classes, of_softmax=False), [TappedMap(leaves, layout)])
    return [None] * len(classes) if found is None else strengths_of(found)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_linear_layer_behind_an_average_gives_class_activation_maps(layout):
    laid, places = LAYOUTS[layout]
    found = grad_cam(laid(MAPS), lambda rows: rows.mean(dim=places) @ WEIGHTS, [0, 1, 0], layout)
    for image, (of_class, heat) in enumerate(zip([0, 1, 0], found, strict=True)):
        activation = torch.einsum("chw,c->hw", MAPS[image], WEIGHTS[:, of_class]).clamp(min=0)
        assert np.allclose(heat, (activation / activation.max()).numpy(), atol=1e-5)


def test_tokens_are_a_square_of_patches_without_what_stands_before_them():
    patches = torch.rand(1, 9, 6, generator=torch.Generator().manual_seed(2))
    tokens = torch.cat([torch.full((1, 1, 6), 50.0), patches], dim=1)
    (heat,) = grad_cam(tokens, lambda rows: rows.sum(dim=1) @ WEIGHTS.abs(), [0], "tokens")
    expected = (patches[0] @ WEIGHTS.abs()[:, 0]).reshape(3, 3)
    assert np.allclose(heat, (expected / expected.max()).numpy(), atol=1e-5)
    assert grad_cam(torch.rand(1, 19, 6), lambda rows: rows.sum(dim=1) @ WEIGHTS, [0], "tokens") == [None]


def test_where_nothing_speaks_for_a_class_or_nothing_is_smooth_there_is_none():
    def against(rows):
        return -rows.mean(dim=(2, 3)) @ WEIGHTS.abs()

    assert grad_cam(MAPS[:1], against, [0], "nchw") == [None]
    assert grad_cam(MAPS, lambda rows: (rows.mean(dim=(2, 3)) > 0.5).float(), [0, 0, 0], "nchw") == [None] * 3
    assert grad_cam(MAPS[:1, :, :1, :1], lambda rows: rows.mean(dim=(2, 3)) @ WEIGHTS.abs(), [0], "nchw") == [None]


def test_evidence_is_that_of_an_area_so_that_maps_of_unlike_fineness_add_up():
    def evidence(maps):
        leaves = maps.detach().requires_grad_()
        return place_evidence(leaves.mean(dim=(2, 3)) @ WEIGHTS[:, 0], [TappedMap(leaves, "nchw")])

    coarse = evidence(MAPS)
    fine = evidence(MAPS.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    assert torch.allclose(fine, coarse.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2), atol=1e-5)
    assert torch.allclose(coarse.mean(dim=(1, 2)), MAPS.mean(dim=(2, 3)) @ WEIGHTS[:, 0], atol=1e-5)


def test_the_deepest_map_that_counts_is_taken():
    """A class token that is read alone leaves the patches of the last map without a say."""
    below = torch.rand(2, 10, 6, generator=torch.Generator().manual_seed(3)).requires_grad_()
    mixed = below.mean(dim=1, keepdim=True) + below  # all tokens see all
    scores = mixed[:, 0] @ WEIGHTS[:, 0]
    found = place_evidence(scores, [TappedMap(below, "tokens"), TappedMap(mixed, "tokens")])
    alone = place_evidence(below.mean(dim=1) @ WEIGHTS[:, 0], [TappedMap(below, "tokens")])
    assert torch.allclose(found, alone, atol=1e-5)


def test_a_channel_that_is_alike_everywhere_spoils_no_map_by_its_deviation():
    maps = MAPS.clone()
    maps[:, 2] = 0.0  # a unit that is never on
    leaves = maps.requires_grad_()
    rows = torch.cat([leaves.mean(dim=(2, 3)), leaves.std(dim=(2, 3), correction=0)], dim=1)
    found = place_evidence(rows @ torch.cat([WEIGHTS, WEIGHTS])[:, 0], [TappedMap(leaves, "nchw")])
    assert found.isfinite().all()
    assert found.any()


def test_of_a_softmax_an_output_is_explained_against_the_mean_of_all():
    answered = torch.tensor([[0.0, 3.0, 6.0], [1.0, 1.0, 4.0]])
    assert scores_of(answered, [0, 2], of_softmax=True).tolist() == [-3.0, 2.0]
    assert scores_of(answered + torch.tensor([[5.0], [-2.0]]), [0, 2], of_softmax=True).tolist() == [-3.0, 2.0]
    assert scores_of(answered, [0, 2], of_softmax=False).tolist() == [0.0, 4.0]

"""Grad-CAM against its formula, in every layout, and nothing where there is nothing to show."""

import numpy as np
import pytest
import torch

from stages.inspection.grad_cam import grad_cam

MAPS = torch.rand(3, 6, 4, 5, generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.randn(6, 2, generator=torch.Generator().manual_seed(1)) + 0.6
LAYOUTS = {
    "nchw": (lambda maps: maps, (2, 3)),
    "nhwc": (lambda maps: maps.permute(0, 2, 3, 1), (1, 2)),
}


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


def test_it_works_within_no_grad_and_leaves_the_maps_as_they_are():
    with torch.no_grad():
        (heat,) = grad_cam(MAPS[:1], lambda rows: rows.mean(dim=(2, 3)) @ WEIGHTS.abs(), [0], "nchw")
    assert heat is not None
    assert MAPS.grad is None
    assert not MAPS.requires_grad

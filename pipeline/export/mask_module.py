"""A class for each pixel, at the size of the image, as tensor operations alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.data.images.preprocessing import Preprocessing
from stages.data.images.rendering_module import inner_sides


class MaskModule(nn.Module):
    """Logits of a view, float32 [b, classes, h, w], and its images -> masks and probabilities at the images' own size.

    Bilinear by the centers of pixels, as `stages.finetuning.predict_masks` brings logits to the size of an image; of a
    view with a border the part that shows the image. As a product with a matrix for each side, which follows from the
    shapes of the two.

    Parameters
    ----------
    preprocessing : Preprocessing
        How the view was rendered.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing

    def forward(self, logits: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the most probable class of each pixel, uint8 [b, H, W], and probabilities [b, classes, H, W]."""
        rows, columns = (torch.arange(images.shape[dim], dtype=torch.float64) for dim in (2, 3))
        height, width = rows[-1:] + 1, columns[-1:] + 1
        seen = (torch.full_like(height, float(logits.shape[2])), torch.full_like(width, float(logits.shape[3])))
        starts = (torch.zeros_like(height), torch.zeros_like(width))
        if self.preprocessing.crop_mode == "border":
            shape = self.preprocessing.shape
            logits = functional.interpolate(logits, shape, mode="bilinear", align_corners=False)
            seen = inner_sides(height, width, shape)
            starts = (torch.floor((shape[0] - seen[0]) / 2), torch.floor((shape[1] - seen[1]) / 2))
        down = _bilinear(rows, height, seen[0], starts[0], logits.shape[2])
        across = _bilinear(columns, width, seen[1], starts[1], logits.shape[3])
        full = torch.matmul(down, torch.matmul(logits, across.T))
        probabilities = full.softmax(dim=1)
        return full.argmax(dim=1).to(torch.uint8), probabilities


def _bilinear(positions: Tensor, length: Tensor, seen: Tensor, start: Tensor, count: int) -> Tensor:
    """Return what brings `seen` of `count` numbers, from `start` on, to the positions of an image, [n, count]."""
    source = ((positions + 0.5) * (seen / length) - 0.5).clamp_min(0.0)
    source = torch.minimum(source, seen - 1)[:, None] + start
    places = torch.arange(count, dtype=torch.float64)[None]
    return (1.0 - torch.abs(places - source)).clamp_min(0.0).to(torch.float32)

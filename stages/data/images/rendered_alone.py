"""A rendering of one image where it is, or by the processor where a GPU has no way to resize it so far."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from stages.runtime.device import uploaded

_TOO_FAR = "Too much shared memory required"
"""In torch's error where its antialiased resizing on CUDA makes a pixel of more than find room: from some 47 times
smaller on in a bicubic way, 94 in a bilinear one."""


def rendered_alone(render: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Return renderings of an image, uint8 [3, H, W], on its device."""
    try:
        return render(image)
    except RuntimeError as error:
        if _TOO_FAR not in str(error):
            raise
    return uploaded(render(image.cpu()), image.device)

"""What a GPU cannot make so small, the processor does."""

import pytest
import torch

from stages.data.images.preprocessing import Preprocessing
from stages.data.images.rendered_alone import rendered_alone

SMALL = Preprocessing(32, 32, "bicubic")
TOO_FAR = (
    "Provided interpolation parameters can not be handled with current algorithm implementation. Please reduce the "
    "scale factor. Too much shared memory required: 51200 vs 49152"
)


IMAGE = torch.arange(3 * 1920 * 2000, dtype=torch.int64).mul(2654435761).bitwise_right_shift(11).to(torch.uint8)


def check(render):
    image = IMAGE.view(3, 1920, 2000)
    view = rendered_alone(render, image.cuda())
    assert view.is_cuda
    assert torch.equal(view.cpu(), SMALL.render(image))


@pytest.mark.usefixtures("pretended_cuda")
def test_a_photograph_that_a_gpu_cannot_make_so_small_is_made_so_by_the_processor():
    asked = []

    def render(image):
        asked.append(image.device.type)
        if image.is_cuda:
            raise RuntimeError(TOO_FAR)
        return SMALL.render(image)

    check(render)
    assert asked == ["cuda", "cpu"]


@pytest.mark.gpu
def test_a_gpu_that_is_one_says_so_in_the_words_that_are_known():
    with pytest.raises(RuntimeError, match=TOO_FAR.split(". ", 1)[1].split(":", maxsplit=1)[0]):
        SMALL.render(IMAGE.view(3, 1920, 2000).cuda())
    check(SMALL.render)


def test_no_other_error_is_taken_for_that():
    def refuses(given):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        rendered_alone(refuses, torch.zeros(3, 4, 4, dtype=torch.uint8))

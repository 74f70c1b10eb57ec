"""Too little memory: parts, the same rows, one word about it."""

import warnings

import pytest
import torch

from cache.errors import CutonceError
from stages.runtime.memory import InHalves, MemoryShortError, shortage_told

CPU = torch.device("cpu")


def limited(most, seen=None):
    def squares(rows):
        if seen is not None:
            seen.append(len(rows))
        if len(rows) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows**2

    return squares


def test_what_does_not_fit_is_computed_in_parts_with_the_same_rows_and_they_are_remembered():
    seen = []
    rows, in_halves = torch.arange(13.0)[:, None], InHalves(limited(4, seen), CPU, "the frozen part")
    with pytest.warns(UserWarning, match="not enough memory on cpu for the frozen part of 13 images: 7 at a time"):
        assert torch.equal(in_halves(rows), rows**2)
    assert seen == [13, 7, 4, 4, 4, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(in_halves(rows[:9]), rows[:9] ** 2)
        assert torch.equal(in_halves(rows[:3]), rows[:3] ** 2)
    assert seen[6:] == [4, 4, 1, 3]


@pytest.mark.parametrize(
    "told",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "GET was unable to find an engine to execute this computation",
    ],
)
def test_libraries_that_found_no_memory_are_known_by_their_words(told):
    def squares(rows):
        if len(rows) > 4:
            raise RuntimeError(told)
        return rows**2

    rows = torch.arange(8.0)
    with pytest.warns(UserWarning, match="not enough memory on cpu for the frozen part of 8 images: 4 at a time"):
        assert torch.equal(InHalves(squares, CPU, "the frozen part")(rows), rows**2)


def test_a_list_is_halved_too():
    in_halves = InHalves(lambda images: limited(2)(torch.stack(images)), CPU, "renderings")
    with pytest.warns(UserWarning, match="3 at a time"):
        assert torch.equal(in_halves(list(torch.arange(5.0))), torch.arange(5.0) ** 2)


def test_too_little_for_one_image_is_said_in_words():
    with (
        pytest.warns(UserWarning, match="not enough memory"),
        pytest.raises(CutonceError, match="not enough for the frozen part of one image"),
    ):
        InHalves(limited(0), CPU, "the frozen part")(torch.zeros(4, 1))


def test_other_errors_are_not_taken_for_short_memory():
    def broken(rows):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot"):
        InHalves(broken, CPU, "the frozen part")(torch.zeros(4, 1))


def test_what_gives_several_tensors_gives_them_whole():
    in_halves = InHalves(lambda rows: [limited(2)(rows), rows.sum(1)], CPU, "rows")
    rows = torch.arange(10.0).view(5, 2)
    with pytest.warns(UserWarning, match="3 at a time"):
        squares, sums = in_halves(rows)
    assert torch.equal(squares, rows**2)
    assert torch.equal(sums, rows.sum(1))


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("can't allocate memory")]
)
def test_what_ends_for_want_of_memory_ends_in_words(error):
    with (
        pytest.raises(MemoryShortError, match=r"memory does not suffice for an RBF SVM: \w+"),
        shortage_told("an RBF SVM"),
    ):
        raise error


def test_no_other_error_ends_in_these_words():
    with pytest.raises(RuntimeError, match="shapes cannot"), shortage_told("an RBF SVM"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

"""Calls of a decoder for many images, with a CPU as the device: those that fail are found, the others stay."""

import io

import pytest
import torch

from stages.data.images import gpu_jpeg
from stages.data.images.codecs import torchcodec_decoders
from stages.data.images.gpu_jpeg import decode_jpegs, why_no_gpu_decoder
from stages.data.images.jpeg_structure import JpegSize
from stages.runtime.device import is_lost
from tests.photographs import photograph

CPU = torch.device("cpu")


def encoded(number, side=16):
    stream = io.BytesIO()
    photograph((10, 90, 200), number, side=side).save(stream, "JPEG")
    return torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8)


def sizes(count, side=16):
    return [JpegSize(side, side)] * count


def test_images_come_in_their_order_and_what_fails_alone_is_none():
    files = [encoded(number) for number in range(9)]
    bad = torch.frombuffer(bytearray(b"no image"), dtype=torch.uint8)
    alone = [decode_jpegs([file], sizes(1), CPU)[0] for file in files]
    mixed = [*files[:2], bad, *files[2:7], bad, bad, *files[7:]]
    decoded = decode_jpegs(mixed, sizes(len(mixed)), CPU)
    assert [image is None for image in decoded] == [number in (2, 8, 9) for number in range(12)]
    for image, expected in zip([image for image in decoded if image is not None], alone, strict=True):
        assert torch.equal(image, expected)
    assert decode_jpegs([], [], CPU) == []


def test_a_call_is_given_no_more_pixels_than_find_room(monkeypatch):
    counts = []
    decoders = torchcodec_decoders()
    decode = decoders.decode_jpeg

    def counted(sources, device):
        counts.append(len(sources))
        return decode(sources, device=device)

    monkeypatch.setattr(decoders, "decode_jpeg", counted)
    monkeypatch.setattr(gpu_jpeg, "_PIXELS_AT_A_TIME", 1000)
    decode_jpegs([encoded(number) for number in range(7)], sizes(7), CPU)
    assert counts == [3, 3, 1]  # of 256 pixels each


def test_no_room_for_one_image_and_a_lost_device_are_no_fault_of_the_image(monkeypatch):
    calls = []

    def fails(error):
        def decode(sources, device):
            calls.append(len(sources))
            raise error

        monkeypatch.setattr(torchcodec_decoders(), "decode_jpeg", decode)

    fails(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        decode_jpegs([encoded(0)] * 4, sizes(4), CPU)
    assert calls == [4, 2, 1]
    calls.clear()
    fails(RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        decode_jpegs([encoded(0)] * 4, sizes(4), CPU)
    assert calls == [4]
    assert is_lost(RuntimeError("CUDA error: unspecified launch failure"))
    assert not is_lost(RuntimeError("decoding failed"))


def test_why_a_device_decodes_nothing_is_said_in_words(monkeypatch):
    assert why_no_gpu_decoder(CPU) == ""
    assert (
        "TorchCodec does not decode on cuda:0" in why_no_gpu_decoder(torch.device("cuda:0"))
        or torch.cuda.is_available()
    )
    monkeypatch.setattr(gpu_jpeg, "torchcodec_decoders", lambda: None)
    why_no_gpu_decoder.cache_clear()
    assert "TorchCodec is not there" in why_no_gpu_decoder(CPU)
    why_no_gpu_decoder.cache_clear()

"""Calls of a decoder for many images, with a CPU as the device: those that fail are found, the others stay."""

import io
import logging
import threading

import pytest
import torch

from cache.errors import CutonceError
from stages.data.images import gpu_jpeg
from stages.data.images.codecs import torchcodec_decoders
from stages.data.images.gpu_jpeg import decode_jpegs, why_no_gpu_decoder
from stages.data.images.jpeg_structure import JpegSize
from stages.network.graph.cuda_graph import CudaGraph
from tests.photographs import photograph
from tests.pretended_cuda import DeviceError

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


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
    calls.clear()
    fails(DeviceError("CUDA error: out of memory"))  # which is no lost device, although of its class
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        decode_jpegs([encoded(0)] * 4, sizes(4), CPU)
    assert calls == [4, 2, 1]


@pytest.mark.parametrize(
    "told",
    [
        "Failed to decode batch: 5",
        "nvjpegDecode failed: 5",
        "Failed to get image info: 5\nx",
        # of TorchCodec 0.16 beside torch 2.11, where torch has no memory for an image
        'torch_call_dispatcher( "aten::empty", "memory_format", stack.data(), 2) API call failed at stable/ops.h, line 631',
    ],
)
def test_no_memory_for_what_is_decoded_sends_no_image_to_the_cpu(monkeypatch, caplog, told):
    """Who decodes an image would depend on how much memory there is."""
    calls, decoders = [], torchcodec_decoders()
    decode = decoders.decode_jpeg

    def short_of_memory(sources, device):
        calls.append(len(sources))
        if len(sources) > most:
            raise RuntimeError(told)
        return decode(sources, device=device)

    monkeypatch.setattr(decoders, "decode_jpeg", short_of_memory)
    caplog.set_level(logging.INFO, "cutonce")
    gpu_jpeg.say_once.cache_clear()
    most = 2
    assert all(image is not None for image in decode_jpegs([encoded(0)] * 4, sizes(4), CPU))
    assert calls == [4, 2, 2]
    assert caplog.messages == ["cpu has not enough memory to decode 4 images at once: fewer are decoded at a time"]
    most = 0
    with pytest.raises(torch.OutOfMemoryError, match=r"no memory to decode on cpu: "):
        decode_jpegs([encoded(0)] * 4, sizes(4), CPU)
    for other in ("nvjpegDecode failed: 8", "Failed to decode batch: 51", "image 5: 5 of 6"):
        told = other
        assert decode_jpegs([encoded(0)], sizes(1), CPU) == [None]


def test_what_was_launched_before_is_waited_for_by_each_call(pretended_cuda):
    """Else nvJPEG would write over what is still being read; the pretended device notes that."""
    for number in range(3):
        (image,) = decode_jpegs([encoded(number)], sizes(1), CUDA)
        assert image.float().mul(2).sum() > 0
    image.float()
    assert why_no_gpu_decoder(CUDA) == ""


def test_nothing_is_decoded_while_a_graph_is_recorded(pretended_cuda):
    """What the decoder does to the device meanwhile might end the recording; the pretended device notes it."""
    decoded: list[torch.Tensor | None] = []

    def decode():
        with torch.cuda.stream(torch.cuda.Stream()):  # as engines do: on this thread's, the recording is replayed soon
            decoded.extend(decode_jpegs([encoded(0)], sizes(1), CUDA))

    threads = []

    def function(images):
        if torch.cuda.is_current_stream_capturing():
            threads.append(threading.Thread(target=decode))
            threads[0].start()
            threads[0].join(timeout=0.5)
        return [images * 2]

    assert CudaGraph(function)(torch.ones(2, 3).cuda())[0].cpu().unique().tolist() == [2]
    threads[0].join()
    assert [image.shape for image in decoded] == [(3, 16, 16)]


@pytest.mark.gpu
def test_what_is_still_being_read_is_not_decoded_over():
    """Memory that was let go of while it was being read is what torch gives to the next image of the size."""
    files, sizes_of = [encoded(number, side=256) for number in range(32)], sizes(32, side=256)
    decode_jpegs(files, sizes_of, CUDA)
    factors = torch.randn(4096, 4096, device=CUDA) / 64
    for _ in range(10):
        images = decode_jpegs(files, sizes_of, CUDA)
        expected = [int(image.sum()) for image in images]
        product = factors
        for _ in range(20):  # some ten milliseconds
            product = product @ factors
        sums = [image.sum() for image in images]
        del images
        decode_jpegs(files[::-1], sizes_of, CUDA)
        assert [int(total) for total in sums] == expected


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_both_decoders_of_a_card_give_the_same_pixels(device, subsampling, mode):
    """Baseline images are decoded by its engines, progressive ones by its cores; here both have the same coefficients.

    Where they differ, features of baseline images differ between cards with engines and without, and the decoder's
    name has to say which it was.
    """
    image = photograph((10, 90, 200), 3, side=200).resize((233, 175)).convert(mode)
    files = []
    for progressive in (False, True):
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
        files.append(torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8))
    baseline, progressive = decode_jpegs(files, [JpegSize(175, 233)] * 2, torch.device(device))
    assert torch.equal(baseline, progressive)


def test_memory_that_is_taken_is_not_told_as_a_decoder_that_does_not_fit(pretended_cuda):
    pretended_cuda.largest_allocation = 100
    with pytest.raises(
        CutonceError, match=r"cuda:0 does not decode a single image \(there is none for a tensor\): free its memory"
    ):
        why_no_gpu_decoder(CUDA)
    pretended_cuda.largest_allocation = None
    assert why_no_gpu_decoder(CUDA) == ""


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

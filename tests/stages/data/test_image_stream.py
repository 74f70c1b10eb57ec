import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch

from stages.data.image_stream import ImageRequest
from stages.data.image_stream import stream_images as stream_requests
from stages.data.images.preprocessing import Preprocessing
from stages.data.sources.open_image import read_image
from tests.interrupts import heed_interrupts
from tests.stages.data.pictures import write_images

RENDER = Preprocessing(8, 8).render


@pytest.fixture
def locations(tmp_path):
    return [str(path) for path in write_images(tmp_path, {"a": 23})]


def stream(locations, render, batch_size, workers):
    return stream_requests((ImageRequest(location, render) for location in locations), batch_size, workers)


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize("workers", [1, 3])
def test_images_come_in_order_whichever_thread_is_quicker(locations, workers):
    def slowest_first(image):
        time.sleep(0.02 if torch.equal(image, first) else 0)
        return RENDER(image)

    first = read_image(locations[0])
    batches = list(stream(locations, slowest_first, 5, workers))
    assert [batch.indices for batch in batches] == [list(range(i, min(i + 5, 23))) for i in range(0, 23, 5)]
    images = torch.cat([batch.images for batch in batches])
    assert torch.equal(images, torch.stack([RENDER(read_image(location)) for location in locations]))
    assert images.dtype == torch.uint8


def test_an_unreadable_image_is_carried_in_its_batch(locations, tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    locations[2:2] = [str(tmp_path / "text.jpg")]
    locations[7:7] = [str(tmp_path / "gone.jpg")]
    batches = list(stream(locations, RENDER, 5, 2))
    assert [index for batch in batches for index in batch.indices] == [i for i in range(25) if i not in (2, 7)]
    assert [failure for batch in batches for failure in batch.failures] == [
        (2, "not an image of a known format, but text: 'not an image'"),
        (7, "no such file"),
    ]
    assert [len(batch.images) for batch in batches] == [5, 5, 5, 5, 3]
    assert [batch.finished for batch in batches] == [6, 12, 17, 22, 25]


def test_a_batch_of_unreadable_images_is_empty_and_ends_nothing(locations, tmp_path):
    batches = list(stream([str(tmp_path / f"{i}.jpg") for i in range(4)] + locations, RENDER, 4, 2))
    assert len(batches[0].failures) == 4
    assert batches[0].images.shape == (0, 3, 0, 0)
    assert batches[0].indices == []
    assert sum(len(batch.indices) for batch in batches) == 23


def test_several_renderings_of_an_image_are_decoded_once_and_may_stand_in_two_batches(locations, monkeypatch):
    decoded = []

    def both(image):
        decoded.append(image)
        return torch.stack([RENDER(image), 255 - RENDER(image), RENDER(image.flip(2))])

    requests = (ImageRequest(location, both) for location in locations)
    batches = list(stream_requests(requests, 4, 2, renderings=3))
    assert len(decoded) == 23
    assert [index for batch in batches for index in batch.indices] == [i for i in range(23) for _ in range(3)]
    assert [len(batch.images) for batch in batches] == [4] * 17 + [1]
    # an image is finished when its last rendering was handed out, not before
    assert [batch.finished for batch in batches[:4]] == [1, 2, 4, 5]
    assert batches[-1].finished == 23
    images = torch.cat([batch.images for batch in batches])
    assert torch.equal(images[1::3], 255 - images[0::3])


def test_requests_are_asked_for_no_sooner_than_needed(locations):
    asked = 0

    def requests():
        nonlocal asked
        for location in locations * 4:
            asked += 1
            yield ImageRequest(location, RENDER)

    consumed = 0
    for batch in stream_requests(requests(), 4, 2):
        consumed += len(batch.indices)
        assert asked <= consumed + 3 * 4
    assert asked == 92


def test_nothing_to_read_is_no_batch():
    assert list(stream([], RENDER, 4, 2)) == []


def test_never_more_than_the_lookahead_is_decoded_ahead(locations):
    rendered = 0
    lock = threading.Lock()

    def counting(image):
        nonlocal rendered
        with lock:
            rendered += 1
        return RENDER(image)

    consumed = 0
    for batch in stream(locations * 4, counting, 4, 4):
        consumed += len(batch.indices)
        time.sleep(0.01)  # the threads could run away now
        with lock:
            assert rendered <= consumed + 3 * 4
    assert rendered == 92


def test_threads_end_when_the_consumer_stops_early(locations):
    batches = stream(locations * 20, RENDER, 4, 3)
    next(batches)
    assert decoding_threads()
    batches.close()
    assert not decoding_threads()


def test_threads_end_when_the_consumer_fails(locations):
    def consume():
        for _ in stream(locations * 20, RENDER, 4, 3):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        consume()
    assert not decoding_threads()


def test_a_defect_in_rendering_is_not_taken_for_a_bad_image(locations):
    def broken(image):
        raise AttributeError("a defect")

    with pytest.raises(AttributeError, match="a defect"):
        list(stream(locations, broken, 4, 2))
    assert not decoding_threads()


def test_decoding_threads_compute_alone_and_others_keep_their_number(locations):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen, meanwhile, later = set(), set(), []

    def noting(image):
        seen.add(torch.get_num_threads())
        return RENDER(image)

    try:
        for _ in stream(locations, noting, 4, 2):
            meanwhile.add(torch.get_num_threads())
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert (seen, meanwhile, later) == ({1}, {2}, [2])
    finally:
        torch.set_num_threads(before)


def test_ctrl_c_ends_a_process_that_is_streaming(locations, tmp_path):
    script = textwrap.dedent(
        f"""
        import sys, time
        from stages.data.image_stream import ImageRequest, stream_images

        def slow(image):
            time.sleep(0.05)
            return image

        for batch in stream_images((ImageRequest(location, slow) for location in {locations!r} * 1000), 4, 3):
            print("streaming", flush=True)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    assert process.stdout.readline() == "streaming\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode in (130, -signal.SIGINT)
    assert "KeyboardInterrupt" in errors

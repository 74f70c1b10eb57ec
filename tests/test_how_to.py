"""docs/how-to.md: its Python runs as it stands, block after block, and answers as the page says."""

import csv
import io
import json
import re
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request

import numpy as np
import pytest
from PIL import Image

from pipeline.cli.app import main
from tests.loopback import urlopen_here

PAGE = Path(__file__).parent.parent / "docs" / "how-to.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def photographs():
    """Twelve images each of cats, which are dark, and dogs, which are light, by name."""
    random = np.random.default_rng(0)
    return {
        f"{animal}_{number}.jpg": Image.fromarray(
            np.clip(random.normal(level, 30, (48, 64, 3)), 0, 255).astype(np.uint8)
        )
        for animal, level in (("cat", 80), ("dog", 170))
        for number in range(12)
    }


def jpeg(image):
    data = io.BytesIO()
    image.save(data, "JPEG")
    return data.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as the page takes it: photos/, a shard, and a run of them."""
    folder = tmp_path_factory.mktemp("how to")
    (folder / "photos").mkdir()
    with tarfile.open(folder / "train-000000.tar", "w") as tar:
        for name, image in photographs().items():
            (folder / "photos" / name).write_bytes(jpeg(image))
            for member, data in ((name, jpeg(image)), (name.replace(".jpg", ".cls"), name[:3].encode())):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return folder


@pytest.fixture(scope="module")
def names(folder):
    """What the blocks leave, all run in that folder; the run is made when the first of them has written the table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        names = {"__name__": "__main__"}
        blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
        assert len(blocks) > 3
        for number, block in enumerate(blocks, 1):
            block = block.replace("8000", "0")  # any port that is free
            exec(compile(block, f"block {number} of {PAGE.name}", "exec"), names)
            if number == 1:
                options = "run --data labels.csv --image-size 64 --head ridge --skip-finetune --out runs/photos"
                assert main(options.split()) == 0
        yield names
        names["server"].server_close()


def test_a_table_is_made_of_the_names_of_files(names, folder):
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[:2] == [["path", "label"], ["photos/cat_0.jpg", "cat"]]
    assert [row[1] for row in rows[1:]] == ["cat"] * 12 + ["dog"] * 12


def test_a_shard_is_a_dataset_whose_labels_a_classifier_learns(names):
    assert (len(names["shard"]), names["X"].shape) == (24, (24, 1280))
    assert set(names["classifier"].classes_) == {"cat", "dog"}
    assert names["classifier"].score(names["X"], [label for _, label in names["shard"]]) > 0.9


def test_the_nearest_to_an_image_is_the_image_itself(names):
    assert len(names["nearest"]) == 5
    assert names["paths"][names["nearest"][0]] == "photos/cat_0.jpg"


def test_a_server_answers_images_from_several_threads_and_refuses_what_is_none(names):
    server = names["server"]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"

    def asked(data):
        with urlopen_here(Request(address, data=data, method="POST"), timeout=60) as answer:
            return json.load(answer)

    try:
        photos = photographs()
        asked_for = ("cat_1.jpg", "cat_2.jpg", "dog_1.jpg", "dog_2.jpg")
        with ThreadPoolExecutor(len(asked_for)) as threads:
            answers = dict(zip(asked_for, threads.map(asked, [jpeg(photos[name]) for name in asked_for]), strict=True))
        assert {name: answer["class"] for name, answer in answers.items()} == {name: name[:3] for name in asked_for}
        assert float(answers["cat_1.jpg"]["probability_cat"]) > 0.5
        assert answers["cat_1.jpg"]["unlike"] in (True, False)
        for data in (b"no image", jpeg(photos["cat_1.jpg"])[:500]):
            with pytest.raises(HTTPError) as refused:
                asked(data)
            assert refused.value.code == 400
            assert json.load(refused.value)["error"]
    finally:
        server.shutdown()
        thread.join()

import numpy as np
from PIL import Image

from tests.pipeline.finished_runs import add, predictions
from tests.pipeline.report.pages import DrawnEvidence, report


def test_mistakes_are_shown_surest_first(tmp_path):
    for number in range(30):
        Image.new("RGB", (300, 200), (8 * number, 0, 0)).save(tmp_path / f"{number}.png")
    made = predictions(
        np.zeros(30, dtype=int), np.arange(30) < 20, locations=[f"{tmp_path}/{number}.png" for number in range(30)]
    )
    sure = np.linspace(0.6, 0.99, 30)
    made.statistics["probabilities"][:20] = np.stack([1 - sure, sure], axis=1)[:20]
    add(tmp_path / "run", made)
    page = report(tmp_path / "run")
    shown = page.all("img")[:12]
    assert [element["alt"] for element in shown] == [f"{tmp_path}/{number}.png" for number in range(19, 7, -1)]
    assert all(element["src"].startswith("data:image/jpeg;base64,") for element in shown)
    assert "Of the 20 mistakes" in page.words
    assert f"predicted class 1, {100 * sure[19]:.1f} % labelled class 0" in page.words


def test_mistakes_say_how_many_others_are_wrong_too(tmp_path):
    labels, images = np.zeros(4, dtype=int), [3, 1, 2, 0]
    add(tmp_path, predictions(labels, [1, 1, 0, 0]), name="logistic", val=0.9)
    add(tmp_path, predictions(labels, [0, 1, 0, 0], images=images), name="svm", val=0.8)  # wrong on image 1
    add(tmp_path, predictions(labels, [0, 1, 0, 0]), method="head", name="mlp", val=0.7)
    page_text = report(tmp_path).words
    assert "0 of 2 others wrong too 0.png" in page_text
    assert "all others wrong too 1.png" in page_text


def test_images_that_have_moved_leave_a_word_in_their_place(tmp_path):
    Image.new("L", (50, 50)).save(tmp_path / "there.png")
    made = predictions(
        [0, 0, 0], [1, 1, 0], locations=[f"{tmp_path}/{name}.png" for name in ("there", "gone", "right")]
    )
    add(tmp_path / "run", made)
    page = report(tmp_path / "run")
    assert len(page.all("img")) == 1
    assert page.words.count("cannot be read any more") == 1


def test_a_method_without_mistakes_is_told_of_and_its_interval_explained(tmp_path):
    add(tmp_path, predictions([0, 1], [0, 0]))
    page_text = report(tmp_path).words
    assert "logistic makes none" in page_text
    assert "Wilson" in page_text


def in_colors(folder, count):
    """Paths of images that can be read."""
    for number in range(count):
        Image.new("RGB", (300, 200), (8 * number % 256, 0, 0)).save(folder / f"{number}.png")
    return [f"{folder}/{number}.png" for number in range(count)]


def test_beside_a_mistake_stand_what_speaks_for_it_and_the_nearest_training_images(tmp_path):
    locations = in_colors(tmp_path, 6)
    made = predictions([0, 0, 0], [1, 1, 0], locations=locations[:3])
    add(tmp_path / "run", made)
    training = [locations[4], f"{tmp_path}/gone.png", locations[5]]
    page = report(tmp_path / "run", evidence=DrawnEvidence(training, names=("<b>rose", "tulip", "daisy")))
    alts = [element["alt"] for element in page.all("img")]
    assert alts.count(locations[4]) == alts.count(locations[5]) == 2
    assert not any("gone" in alt for alt in alts)  # what cannot be read leaves no frame
    assert alts.count("What speaks for class 1") == 2
    assert "nearest in training: <b>rose, 0.90daisy, 0.70" in page.words
    assert page.words.count("Orange is what speaks") == 1
    without = report(tmp_path / "run", evidence=DrawnEvidence(training, heat=False))
    assert "Orange is what speaks" not in without.words
    assert without.words.count("There are no heat maps: the <model> was not saved.") == 1
    assert "There are no heat maps" not in page.words
    assert len(without.all("img")) == len(alts) - 4


def test_of_each_class_the_surest_the_middle_and_the_least_sure_right_one_are_shown(tmp_path):
    locations = in_colors(tmp_path, 10)
    made = predictions(np.arange(10) % 2, [0] * 9 + [1], locations=locations)
    sure = np.linspace(0.6, 0.99, 10)
    for row, target in enumerate(made.statistics["target"]):
        right = int(target) if row < 9 else 1 - int(target)
        made.statistics["probabilities"][row, right] = sure[row]
        made.statistics["probabilities"][row, 1 - right] = 1 - sure[row]
    add(tmp_path / "run", made)
    page = report(tmp_path / "run")
    alts = [element["alt"] for element in page.all("img")]
    assert alts[0] == locations[9]  # the mistake
    assert alts[1:] == [locations[number] for number in (8, 4, 0, 7, 3, 1)]
    assert "surest of, one in the middle" in page.words


def test_of_many_classes_one_right_image_each_is_shown(tmp_path):
    locations = in_colors(tmp_path, 62)
    add(tmp_path / "run", predictions(np.arange(62) % 31, np.zeros(62), 31, locations=locations))
    page = report(tmp_path / "run")
    assert len(page.all("img")) == 31
    assert "Of each class the one that logistic is surest of" in page.words

import base64
import hashlib
import io
import json
import os
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.one_line import one_line
from pipeline.evaluation.results import evaluate_test
from pipeline.experiment.compare_runs import write_comparison
from pipeline.report.page import best_of_columns, write_report
from stages.runtime.unicode_text import printable
from tests.pipeline.finished_runs import HISTORY, SELECTION, add, folded, predictions
from tests.pipeline.report.pages import HOSTILE, Page, report, three_methods


def test_page_needs_nothing_but_itself(tmp_path):
    page = report(three_methods(tmp_path), drawn="")
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "://" not in source
    assert not re.search(r"url\(|@import", re.sub(r"url\(#\w+\)", "", source))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"link", "iframe", "object", "embed", "base", "form"}
    assert not page.foreign_scripts
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}';" in policy
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))


def test_page_tells_its_story_in_order(tmp_path):
    page = report(three_methods(tmp_path), notes=["split 75 / 25"])
    comparison = compare_runs([tmp_path])
    parts = [
        one_line(comparison)[:20],
        comparison.verdict.headline[:20],
        "What next",
        "cutonce predict",
        "How good they are",
        "What they cost",
        "s: seconds; the features are made once",
        "When the cache has paid",
        "The ring marks the epoch",
        "Settings were selected",
        "What the others do otherwise",
        "those it was surest of",
        "split 75 / 25",
        "Every method answered",
        "Options that were chosen",
        "data.data",
        "elpv",
        "Versions and machine",
    ]
    indices = [page.words.index(part) for part in parts]
    assert indices == sorted(indices)


def test_a_method_made_with_other_options_than_the_last_command_of_the_run_says_so(tmp_path):
    options = {"data": "elpv", "cut": "layer3", "cv": None, "head": ["ridge"]}
    add(tmp_path / "run", predictions([0, 1] * 10, [0, 1] * 10), options=options)
    configuration = {"data": "elpv", "cut": "auto", "head": ["mlp"], "epochs": 3}
    page = Page(write_report(tmp_path, compare_runs([tmp_path / "run"]), configuration, {}, []))
    assert re.findall(r"(\w+) \(option\) (\S+)", page.words) == [("cut", "layer3")]


def test_table_holds_the_numbers_of_the_comparison(tmp_path):
    page = report(three_methods(tmp_path, seeds=(0, 1)))
    for row in compare_runs([tmp_path]).rows:
        low, high = row.ci95
        for figure in (
            f"{100 * row.score:.1f} %",
            f"{100 * low:.1f} – {100 * high:.1f}",
            f"{row.mean_score('f1_macro'):.3f}",
        ):
            assert figure in page.words


def test_what_was_chosen_is_said_and_a_score_on_a_part_of_the_rows_is_not_taken_for_it(tmp_path):
    on_part = [{**candidate, "score": 0.99, "rows": 5000} for candidate in SELECTION]
    settings = {**SELECTION[-1], "selected by": "validation split"}
    add(tmp_path, predictions([0, 1] * 10, [0] * 20), selection=[*on_part, *SELECTION], settings=settings)
    page = report(tmp_path)
    assert "chosen by validation split: C 1, scaler standard" in page.words
    assert "Dotted: tried on a part of the rows first" in page.words
    scores = re.findall(r"8[0-2]\.0 %|7[89]\.0 %|99\.0 %", page.words[page.words.index("12 tried") :])
    assert scores == ["82.0 %", "81.0 %", "80.0 %", "80.0 %", "79.0 %", "78.0 %", *["99.0 %"] * 6]


def test_hostile_names_stay_text(tmp_path):
    locations = [f"photos/{name} {number}.png" for number in range(10) for name in HOSTILE][:60]
    locations[0] = os.fsdecode(b"photos/\xff.png")
    labels = np.arange(60) % len(HOSTILE)
    for name in ("logistic", "svm"):
        made = predictions(labels, np.arange(60) < 12, len(HOSTILE), locations=locations)
        add(tmp_path, made, name=name, class_names=HOSTILE, settings={"<b>": "</dd><script>"}, selection=SELECTION)
    page = report(tmp_path, notes=["<script>alert(4)</script>"], drawn="")
    assert not page.foreign_scripts
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    for name in [*HOSTILE, "<script>alert(4)</script>", "</dd><script>"]:
        assert " ".join(printable(name).split()) in page.words


def test_hostile_names_stay_text_in_a_heat_map_too(tmp_path):
    names = [f"{HOSTILE[number % len(HOSTILE)]}{number}" for number in range(20)]
    add(tmp_path, predictions(np.arange(60) % 20, np.arange(60) < 12, 20), class_names=names)
    page = report(tmp_path, drawn="confusion")
    assert not page.foreign_scripts
    assert len(page.all("img")) == 0
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


@pytest.mark.parametrize("classes", [2, 20])
def test_classes_that_look_the_same_are_told_apart_in_words(tmp_path, classes):
    names = ["caf\u00e9", "cafe\u0301", *map(str, range(classes - 2))]
    add(tmp_path, predictions(np.arange(40) % classes, np.arange(40) < 30, classes), class_names=names)
    page = report(tmp_path)
    assert "caf\u00e9 (composed)" in page.words
    assert "cafe\u0301 (decomposed)" in page.words


def test_one_closed_fit_has_neither_curves_nor_comparison(tmp_path):
    add(tmp_path, predictions([0, 1] * 10, [1] + [0] * 19))
    page_text = report(tmp_path).words
    assert "there is nothing to compare it with" in page_text
    for absent in ("Learning curves", "What was tried", "points against", "others wrong", "What the network sees"):
        assert absent not in page_text


def test_the_foot_says_where_the_results_come_from_and_the_middle_when_the_cache_has_paid(tmp_path):
    kept = {
        "command": "cutonce run --data a",
        "date": "2027-01-02T03:04:05+00:00",
        "commit": "f00d",
        "data_digest": "beef",
    }
    for name in ("logistic", "ridge"):
        add(tmp_path, predictions([0, 1] * 10, [1] + [0] * 19), name=name, provenance=kept)
    page = report(tmp_path).words
    foot = page[page.index("Where the results come from") :]
    assert [foot.count(value) for value in kept.values()] == [1, 1, 1, 1]  # of both results once
    assert "it pays from the 2nd head, setting, seed or epoch on" in page[page.index("When the cache has paid") :]
    assert "the features are made once for all heads" in page


def test_figures_are_also_there_as_png_files(tmp_path):
    report(three_methods(tmp_path / "run"), out=tmp_path / "out", drawn="")
    names = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert names == {
        "accuracy-time.png",
        "break-even.png",
        "selection-1-logistic.png",
        *("reliability.png", "roc.png", "precision-recall.png"),
        *(
            f"learning-{name}-{quantity}.png"
            for name in ("2-MLP", "3-fine-tune-top-3")
            for quantity in ("loss", "accuracy")
        ),
        *(f"confusion-{name}.png" for name in ("1-logistic", "2-MLP", "3-fine-tune-top-3")),
    }
    for name in names:
        with Image.open(tmp_path / "out" / "figures" / name) as image:
            image.verify()


def test_contact_sheet_is_part_of_the_page(tmp_path):
    three_methods(tmp_path)
    Image.new("RGBA", (3000, 800), "green").save(tmp_path / "seed-0" / "finetune-top-3" / "contact-sheet.png")
    page = report(tmp_path)
    assert "What the network sees" in page.words
    assert any("Contact sheet" in element["alt"] for element in page.all("img"))


def test_drawings_that_follow_light_and_dark_stand_before_pixels(tmp_path):
    three_methods(tmp_path)
    folder = tmp_path / "seed-0" / "finetune-top-3"
    Image.new("RGB", (300, 200)).save(folder / "contact-sheet.png")
    drawing = (
        '<svg xmlns="http://www.w3.org/2000/svg"><style>:root { --ink: #1c2330 }</style><text>100 % ×</text></svg>\n'
    )
    (folder / "contact-sheet.svg").write_text(drawing, encoding="utf-8")
    (source,) = [element["src"] for element in report(tmp_path).all("img") if "Contact" in element["alt"]]
    kind, content = source.split(",", 1)
    assert kind == "data:image/svg+xml"
    assert unquote(content) == drawing
    assert not {'"', "#", "\n"} & set(content)


def test_plots_of_the_rates_stand_beside_the_contact_sheet_of_their_method(tmp_path):
    three_methods(tmp_path, seeds=(0, 1))
    add(tmp_path, predictions([0, 1] * 30, [0] * 60), method="scratch", name="all", history=HISTORY)
    add(tmp_path, predictions([0, 1] * 30, [0] * 60), method="scratch", name="all", history=HISTORY, seed=1)
    for seed in (0, 1):
        for folder, names in {
            "finetune-top-3": ("contact-sheet", "rates", "range-test"),
            "scratch-all": ("contact-sheet", "rates"),  # the very same sheet, which is shown once
        }.items():
            for name in names:
                picture = Image.new("RGB", (300, 200), "green" if seed == 0 else "red")
                picture.save(tmp_path / f"seed-{seed}" / folder / f"{name}.png")
    page = report(tmp_path)
    pictures = [element for element in page.all("img") if not element["alt"].startswith("photos/")]
    assert [element["alt"].split(":")[0] for element in pictures] == [
        "Contact sheet",
        "fine-tune top-3",
        "fine-tune top-3",
        "scratch all",
    ]
    assert [element["src"].split(";")[0] for element in pictures] == ["data:image/jpeg", *["data:image/png"] * 3]
    for element in pictures:  # of the first seed
        with Image.open(io.BytesIO(base64.b64decode(element["src"].split(",")[1]))) as image:
            assert image.convert("RGB").getpixel((9, 9))[1] > 100
    assert "scratch all with seed 0 It sees what fine-tune top-3 sees. learning rate of each group" in page.words
    assert "fine-tune top-3 with seed 0 learning rate of each group over the steps range test:" in page.words


def test_methods_that_train_on_images_are_side_by_side(tmp_path):
    three_methods(tmp_path)
    assert "Side by side" not in report(tmp_path).words
    for method, name in (("scratch", "all"), ("uncached", "linear")):
        add(tmp_path, predictions([0, 1] * 30, [0] * 60), method=method, name=name, history=HISTORY)
    page = report(tmp_path)
    assert "Side by side" in page.words
    named = [
        element["aria-label"]
        for _, element in page.elements
        if element.get("aria-label", "").startswith("Validation acc")
    ]
    methods = "fine-tune top-3, frozen network linear, scratch all, MLP"
    assert named == [
        f"Validation accuracy over the {axis_name} of {methods}" for axis_name in ("epochs", "time from the images on")
    ]
    assert {"side-by-side-epoch.png", "side-by-side-time.png"} < {
        path.name for path in (tmp_path / "figures").iterdir()
    }


def test_test_time_augmentation_is_marked_in_the_table_and_explained_below_it(tmp_path):
    three_methods(tmp_path)
    assert "+ crops" not in report(tmp_path).words
    made = predictions([0, 1] * 30, [0] * 60)
    add(tmp_path, made, method="finetune", name="all", settings={"test-time augmentation": "crops"})
    page_text = report(tmp_path).words
    assert "fine-tune all + crops" in page_text
    assert page_text.index("Probabilities averaged over renderings: “+ crops”") < page_text.index("What they cost")


def test_every_picture_has_words_for_those_who_do_not_see_it(tmp_path):
    page = report(three_methods(tmp_path, classes=20, tests=200))
    assert all(element.get("alt") for element in page.all("img"))
    described = [attributes for _, attributes in page.elements if attributes.get("role") == "img"]
    figures = page.all("figure")
    assert len(described) == len(figures) == 2 + 4 + 1 + 1 + 1
    assert all(element["aria-label"] for element in described)
    hidden = [element for element in page.all("svg") if element.get("aria-hidden") == "true"]
    assert len(hidden) + len(described) == len(page.all("svg"))


def test_a_warning_stands_in_view_and_what_explains_is_folded_away(tmp_path):
    labels = np.repeat([0, 1, 2], [30, 5, 4])
    add(tmp_path / "run", predictions(labels, labels < 0, classes=4))
    add(tmp_path / "run", predictions(labels, labels == 1, classes=4), method="head", name="mlp")
    add(tmp_path / "run", predictions(labels, labels == 2, classes=4), method="head", name="rbf")
    comparison = compare_runs([tmp_path / "run"])
    assert all(warning not in comparison.verdict.explanations for warning in comparison.verdict.warnings)
    report(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    verdict = page.split('class="verdict"')[1].split("</section>")[0]
    in_view, folded_away = verdict.split("<details")
    assert "fewer than 5 test images are of" in in_view
    assert "Warning" not in folded_away


def test_notes_are_those_of_seeds_that_have_results(tmp_path):
    run = three_methods(tmp_path)
    (run / "environment.json").write_text("{}")
    for seed in (0, 1):  # of the second a command that was stopped has left but this
        (run / f"seed-{seed}").mkdir(exist_ok=True)
        account = {"notes": [f"a note of seed {seed}"], "skipped": [[f"{seed}.png", "empty"]]}
        (run / f"seed-{seed}" / "extraction.json").write_text(json.dumps(account))
    page_text = write_comparison(compare_runs([run]), [run], run).read_text()
    assert "a note of seed 0" in page_text
    assert "not readable: 0.png: empty" in page_text
    assert "of seed 1" not in page_text
    assert "not readable: 1" not in page_text


def test_many_notes_are_folded_away_but_none_is_lost(tmp_path):
    page_text = report(three_methods(tmp_path), notes=[f"not readable: {number}.png" for number in range(500)]).words
    assert "488 more" in page_text
    assert all(f"not readable: {number}.png" in page_text for number in range(500))


def test_options_in_notes_are_written_as_flags(tmp_path):
    page_text = report(three_methods(tmp_path), notes=["`task` single_label takes `car` for a name"]).words
    assert "--task single_label takes `car` for a name" in page_text


def test_where_samples_have_several_images_the_page_speaks_of_samples(tmp_path):
    images = report(three_methods(tmp_path), notes=[]).words
    assert "images to train on" in images
    (tmp_path / "seed-0").mkdir(exist_ok=True)
    (tmp_path / "seed-0" / "manifest.images.csv").touch()
    samples = report(tmp_path, notes=[]).words
    assert "samples to train on" in samples
    for words in (r"\d test samples", "of the test samples of the one seed", "judged on the samples where"):
        assert re.search(words, samples)
        assert not re.search(words, images)


def test_left_out_seeds_are_among_the_notes(tmp_path):
    three_methods(tmp_path)
    add(tmp_path, predictions(np.arange(60) % 2, np.arange(60) < 5), seed=1)
    assert "logistic: seed 1 is left out" in report(tmp_path).words


def test_scores_by_outer_fold_are_a_table_of_their_own(tmp_path):
    predicted = predictions([0, 1] * 20, [0] * 30 + [1] * 10)
    folds = {"Bern": {"samples": 20, "accuracy": 1.0}, "Graz": {"samples": 20, "accuracy": 0.5}}
    test = {**evaluate_test(predicted.task, predicted.statistics, 0), "folds": folds, "tested": "each of 2 groups"}
    add(tmp_path, predicted, test=test)
    words = report(tmp_path).words
    assert "Test accuracy by outer fold tested samples logistic Bern 20 100.0 % Graz 20 50.0 %" in " ".join(
        words.split()
    )
    assert "with a head that was trained, and whose settings were chosen, without its fold" in words


def test_the_table_shows_what_heads_are_ranked_by_and_marks_the_one_to_take(tmp_path):
    labels = np.arange(60) % 2
    for name, mistakes in (("logistic", 12), ("svm", 3)):
        made = predictions(labels, np.arange(60) < mistakes)
        add(tmp_path, made, name=name, val=0.9, out_of_fold=folded(made))
    page = report(tmp_path)
    assert "out of folds" in page.words
    assert "80.0 % ± 5.2" in page.words.replace("%±", "% ±")
    assert "95.0 % ± 2.8" in page.words.replace("%±", "% ±")
    assert page.words.count("to take") == 1
    assert page.words.index("SVM to take") > 0


def test_a_page_has_its_contents_and_links_to_the_pages_of_other_commands_that_are_there(tmp_path):
    three_methods(tmp_path)
    (tmp_path / "inspect.html").touch()
    page = report(tmp_path)
    links = [link["href"] for link in page.all("a")]
    assert {"#methods", "#time", "#confusion", "#mistakes", "#configuration", "inspect.html"} < set(links)
    assert "probe.html" not in links
    named = {heading["id"] for heading in page.all("h2")}
    assert {link[1:] for link in links if link.startswith("#")} <= named


def test_the_best_of_each_column_is_marked_and_not_the_row_that_is_chosen(tmp_path):
    labels = np.arange(60) % 2
    sure = predictions(labels, np.arange(60) < 3, confidence=0.999)  # the fewest mistakes, but far too sure
    add(tmp_path, sure, name="svm", val=0.95)
    add(tmp_path, predictions(labels, np.arange(60) < 4, confidence=0.9), name="logistic", val=0.9, seconds=5.0)
    comparison = compare_runs([tmp_path])
    names = [row.name for row in comparison.rows]
    best = {column: {names[number] for number in of} for column, of in best_of_columns(comparison).items()}
    assert best["score"] == best["val"] == {"svm"}
    assert best["log_loss"] == best["seconds"] == {"logistic"}
    assert best["cv"] == best["memory"] == set()  # nothing to tell apart
    assert comparison.choice.chosen.name == "svm"


def test_settings_are_in_words_and_what_was_chosen_comes_before_defaults(tmp_path):
    settings = {"fitted": True, "weights": {"a": 1, "b": [1, 2]}, "nothing": None}
    add(tmp_path, predictions([0, 1] * 10, [0, 1] * 10), settings=settings)
    configuration = {"data": "elpv", "cut": "auto", "epochs": 3}
    page = Page(write_report(tmp_path, compare_runs([tmp_path]), configuration, {}, []))
    for words in ("fitted yes", "weights a 1, b 1, 2", "nothing none"):
        assert words in page.words
    assert not re.search(r"\bNone\b|\bTrue\b|\{'|\['", page.words)
    given, _, defaults = page.words.partition("1 as they are by default")
    assert "data elpv" in given
    assert "epochs 3" in given
    assert "cut auto" in defaults


def test_the_class_whose_confusion_is_the_best_is_whole_and_others_are_what_they_do_otherwise(tmp_path):
    page = report(three_methods(tmp_path))
    assert len([table for table in page.all("table") if "difference" in table.get("class", "")]) == 2
    tables = [table for table in page.all("table") if "confusion" in table.get("class", "")]
    assert len(tables) == 3


def test_a_run_may_be_called_as_an_option_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add(Path("data"), predictions([0, 1], [0, 0]), options={"epochs": 7})
    comparison = compare_runs([Path("data")])
    page = Page(write_report(tmp_path / "out", comparison, {"data": "elpv", "epochs": 3}, {}, []))
    assert "epochs (option) 7" in page.words

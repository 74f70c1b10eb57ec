"""Pages as a browser would see them, and runs to make them from."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from pipeline.evaluation.comparison import compare_runs
from pipeline.report import page as page_module
from pipeline.report.evidence import HeatMap, HeatMaps, Near
from pipeline.report.page import write_report
from stages.inspection.feature_map import map_features
from tests.page_figures import drawing
from tests.pipeline.finished_runs import HISTORY, SELECTION, add, predictions

OWN_SCRIPT = (Path(page_module.__file__).parent / "page.js").read_text(encoding="utf-8")
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "</svg></style><script>alert(3)</script>",
    "font-family: 'x",
    "$\\frac{1}{$",
    "{{ 7 * 7 }}",
    "tulip 🌷\nand more",
    "h\udcfctte",
    "bell\x07",
    "猫",
]


class Page(HTMLParser):
    """What a browser would make of a page: its elements with attributes, its text; fails where tags do not match."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text, self.open, self.scripts = [], "", [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.text += " " * (tag in {"td", "th", "dt", "dd"})

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts.append(data)
        elif "style" not in self.open:
            self.text += data

    def all(self, tag):
        return [attributes for element_tag, attributes in self.elements if element_tag == tag]

    @property
    def foreign_scripts(self):
        """Scripts that are not the one of the pages themselves; where a name became one, it is among these."""
        return [script for script in self.scripts if script != OWN_SCRIPT] + self.all("script")[len(self.scripts) :]

    @property
    def words(self):
        return " ".join(self.text.split())


class DrawnEvidence:
    """What stands beside predictions, of numbers drawn by chance: each sample is near the training images given."""

    features = near_of = "resnet18 at layer4"
    features_note, heat_of = "", "Grad-CAM of the last map"

    def __init__(self, training, heat=True, names=("class 0",), against=()):
        self.training, self.heat, self.names, self.against = training, heat, names, against

    def nearest(self, keys, count):
        near = [
            Near(location, self.names[n % len(self.names)], 0.9 - 0.1 * n) for n, location in enumerate(self.training)
        ]
        return [near[:count]] * len(keys)

    def heat_maps(self, keys, locations, classes):
        random = np.random.default_rng(0)
        if not self.heat:
            return HeatMaps([None] * len(keys), "There are no heat maps: the <model> was not saved.")
        view = random.integers(0, 255, (224, 224, 3), np.uint8)
        return HeatMaps([HeatMap(view, random.random((7, 7)), n in self.against) for n in range(len(keys))], "")

    def feature_map(self, keys):
        return map_features(np.random.default_rng(0).normal(size=(len(keys), 8)), "pca")


def three_methods(run, classes=2, tests=60, seeds=(0,), **fields):
    """A run of a linear head, a torch head and a fine-tuning, with mistakes."""
    labels = np.arange(tests) % classes
    for seed in seeds:
        random = np.random.default_rng(seed)
        for method, name, val in (("linear", "logistic", 0.8), ("head", "mlp", 0.85), ("finetune", "top-3", 0.9)):
            made = predictions(labels, random.random(tests) > val, classes)
            own = {"selection": SELECTION} if method == "linear" else {"history": HISTORY}
            add(run, made, method=method, name=name, seed=seed, val=val, **{**own, **fields})
    return run


def report(run, out=None, notes=(), drawn=None, evidence=None):
    """Return the page of a run; of its figures, those are drawn whose names begin with `drawn`, and all with ''."""
    comparison = compare_runs([run])
    configuration = {"data": {"data": "elpv", "test": 0.25}}
    with drawing(drawn):
        return Page(write_report(out or run, comparison, configuration, {"torch": "2.6"}, list(notes), evidence))

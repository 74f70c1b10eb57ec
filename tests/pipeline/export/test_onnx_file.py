"""An ONNX file: what stands in it, that it takes batches and sizes of any kind, and what it cannot hold."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from cache.errors import UsageError
from pipeline.export.equality import BOUND, compare_with_run, samples_of_run
from pipeline.export.exported_module import ExportedModule
from pipeline.library.export_model import export_model, open_trained


def test_it_says_what_it_takes_and_gives_and_what_of(exported):
    session = onnxruntime.InferenceSession(exported[0].path)
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, given.type) == ("images", ["batch", 3, "height", "width"], "tensor(uint8)")
    assert (taken.name, taken.shape, taken.type) == ("probabilities", ["batch", 3], "tensor(float)")
    words = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    assert words["class_names"] == ["cat", "dog", "eel"]
    assert words["decision"] == {"temperature": 1.0, "threshold": None, "class": None, "least": None}
    assert words["method"] == {"folder": "head-linear", "name": "linear", "seed": 0}
    model = open_trained(exported[0].choice.directory, "cpu")
    assert words["fingerprint"] == model.extractor.fingerprint
    assert words["weights"] == model.extractor.backbone.weights


@pytest.mark.parametrize("shape", [(1, 3, 33, 200), (5, 3, 120, 45), (1, 3, 1, 1)])
def test_batches_and_images_of_any_size_are_answered(exported, shape):
    session = onnxruntime.InferenceSession(exported[0].path)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    module = ExportedModule(open_trained(exported[0].choice.directory, "cpu"))
    expected = module(torch.from_numpy(images)).numpy()
    (answers,) = session.run(None, {"images": images})
    assert np.abs(answers - expected).max() < 1e-5


class Bessel(torch.nn.Module):
    """A head with what torch has and ONNX has not."""

    def __init__(self, row_shape, out_features):
        super().__init__()
        self.output = torch.nn.Linear(row_shape[0], out_features)

    def forward(self, rows):
        return torch.special.bessel_j0(self.output(rows))


def test_the_operator_that_onnx_does_not_have_is_named(saved, tmp_path):
    from pipeline.experiment.models.model_card import read_recipe
    from pipeline.experiment.models.model_store import save_model
    from stages.network.heads.user_module import ImportedHead

    directory = saved("linear")
    row_shape = json.loads((directory / "head.json").read_text())["config"]["row_shape"]
    save_model(tmp_path / "own", read_recipe(directory), ImportedHead(f"{__name__}:Bessel", tuple(row_shape), 3))
    with pytest.raises(
        UsageError, match=r"ONNX cannot hold .*own: the operator (aten|prims)\.(special_)?bessel_j0.*torch-export"
    ):
        export_model(tmp_path / "own", tmp_path / "own.onnx", "cpu")
    assert not (tmp_path / "own.onnx").exists()


def test_the_lines_of_its_card_are_all_that_it_takes(exported, images, tmp_path, monkeypatch):
    monkeypatch.chdir(exported[0].path.parent)
    turned = Image.Exif()
    turned[0x0112] = 6  # a phone held upright: a viewer turns it
    photo = Image.open(images[1])
    photo.save("photo.jpg", exif=turned)
    lines = exported[0].card.read_text().split("```python\n")[1].split("```")[0]
    names = {}
    exec(lines, names)
    assert names["probabilities"].shape == (1, 3)
    assert names["image"].shape == (3, photo.width, photo.height)
    module = ExportedModule(open_trained(exported[0].choice.directory, "cpu"))
    expected = module(torch.from_numpy(names["image"][None])).numpy()
    assert np.abs(names["probabilities"] - expected).max() < 1e-5


@pytest.mark.parametrize("kind", ["masks", "columns", "gru", "mixture", "taps", "mirror"])
def test_files_of_other_inputs_and_outputs_answer_as_the_run(saved, tmp_path, kind):
    found = []

    def check(model, run_file):
        found.append(compare_with_run(model, run_file, samples_of_run(model)[:2]))

    model = export_model(saved(kind), tmp_path / f"{kind}.onnx", check=check)
    assert found[0].difference <= BOUND
    session = onnxruntime.InferenceSession(tmp_path / f"{kind}.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    assert ("columns" in metadata) == (kind == "columns") == (model.columns is not None)
    shapes = {of.name: [2 if not isinstance(side, int) else side for side in of.shape] for of in session.get_inputs()}
    assert {name: shape[0] for name, shape in shapes.items()} == dict.fromkeys(shapes, 2)  # any number at a time


def test_the_script_of_the_docs_takes_onnxruntime_numpy_and_pillow_alone(exported, images, tmp_path):
    words = (Path(__file__).parents[3] / "docs" / "export.md").read_text(encoding="utf-8")
    (script,) = [part.split("```")[0] for part in words.split("```python\n") if part.startswith("# classify.py")]
    script += "assert not {'torch', 'pipeline', 'cache', 'stages', 'onnx'} & sys.modules.keys(), sorted(sys.modules)\n"
    (tmp_path / "classify.py").write_text(script)
    command = [sys.executable, "-I", "classify.py", str(exported[0].path), *map(str, images[:2])]
    completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    assert [line.split()[0] for line in completed.stdout.splitlines()] == [str(path) for path in images[:2]]

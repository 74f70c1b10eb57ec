"""A program of torch: what stands in it, that it takes any sizes, and what is said of what cannot be traced."""

import json

import pytest
import torch
from PIL import Image

from cache.errors import UsageError
from pipeline.export.equality import BOUND, compare_with_run, samples_of_run
from pipeline.export.exported_module import ExportedModule
from pipeline.export.torch_program import reason_of, traced_program
from pipeline.library.export_model import export_model, open_trained


def test_it_runs_with_torch_alone_and_holds_its_words(exported):
    words = {"task": "", "decision": "", "fingerprint": ""}
    program = torch.export.load(exported[1].path, extra_files=words).module()
    module = ExportedModule(open_trained(exported[1].choice.directory, "cpu"))
    for shape in ((1, 3, 33, 200), (5, 3, 120, 45)):
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(program(images), module(images), atol=1e-6)
    assert json.loads(words["task"])["class_names"] == ["cat", "dog", "eel"]
    assert json.loads(words["decision"])["temperature"] == 1


def test_the_lines_of_its_card_are_all_that_it_takes(exported, images, monkeypatch):
    monkeypatch.chdir(exported[1].path.parent)
    Image.open(images[2]).save("photo.jpg")
    names = {}
    exec(exported[1].card.read_text().split("```python\n")[1].split("```")[0], names)
    assert names["probabilities"].shape == (1, 3)


def test_what_depends_on_the_values_is_refused_with_a_reason(saved, monkeypatch):
    model = open_trained(saved("linear"), "cpu")
    monkeypatch.setattr(model.transfer.model.head, "forward", lambda rows: rows[: int(rows.sum()), :3])
    with pytest.raises(UsageError, match=r"cannot be traced for export: .+`format` safetensors holds its tensors"):
        traced_program(model)


def test_operators_are_found_in_what_caused_an_error():
    error = RuntimeError("conversion failed")
    error.__cause__ = ValueError(
        "No ONNX function found for <OpOverload(op='aten.special_bessel_j0', overload='default')>"
    )
    assert reason_of(error).startswith("the operator aten.special_bessel_j0; ")
    assert reason_of(ValueError("plain words\nmore")) == "plain words"


def test_a_mean_over_networks_is_one_program_and_answers_as_the_run(saved, tmp_path):
    found = []

    def check(model, run_file):
        found.append(compare_with_run(model, run_file, samples_of_run(model)[:2]))

    export_model(saved("mixture"), tmp_path / "mixture.pt2", check=check)
    assert found[0].difference <= BOUND

"""The model card: read back by the hub's own library, with what it says of data, scores, limits and licenses."""

import ast
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from pipeline.export.hub_card import license_of_weights, loading_snippet, write_card
from pipeline.library.export_model import open_trained
from stages.tasks.single_label import SingleLabel


@pytest.fixture(scope="module")
def card(exported):
    return ModelCard.load(exported[0].card)


def test_tools_find_task_license_and_scores_with_their_data(card):
    front = card.data.to_dict()
    assert (front["library_name"], front["pipeline_tag"], front["license"]) == (
        "onnx",
        "image-classification",
        "other",
    )
    assert "cutonce" in front["tags"]
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert scores["accuracy"] == pytest.approx(0.75)
    assert all(result.dataset_split == "test" for result in card.data.eval_results)


def test_people_find_interval_limits_and_licenses(card, exported):
    for said in (
        "Linear, trained on features of resnet18, for images of 32 pixels. It tells 3 classes: cat, dog, eel.",
        "**75.0 %** (95 % interval ",
        "Take it: nothing else was tried.",
        "`evaluate` tells",
        f"largest difference from the run's own answers {exported[0].equality.difference:.1e}",
        "- Weights of resnet18: not stated by the run: say it here",
        "- Data: not stated by the run: say it here",
    ):
        assert said in card.content, said


def test_licenses_are_those_that_are_published():
    assert license_of_weights("timm:resnet18.a1_in1k") == "apache-2.0"
    assert license_of_weights("nobodys-network") is None


def test_lines_to_load_it_name_all_that_a_method_takes(saved, tmp_path):
    for kind, names in (("columns", ("images", "columns")), ("mean", ("images", "sizes"))):
        lines = loading_snippet(open_trained(saved(kind), "cpu"), tmp_path / "a.onnx")
        assert all(f'"{name}": ' in lines for name in names)
    assert "mask, probabilities = session.run" in loading_snippet(
        open_trained(saved("masks"), "cpu"), tmp_path / "a.onnx"
    )
    assert "safe_open" in loading_snippet(open_trained(saved("masks"), "cpu"), tmp_path / "a.safetensors")


def test_of_a_mean_over_networks_all_are_named_with_their_sizes_and_shares(saved, tmp_path):
    written = write_card(open_trained(saved("mixture"), "cpu"), tmp_path / "mean.onnx").read_text()
    assert "A mean over 3 networks (mixture):" in written
    assert "- 0.30 of it trained on features of resnet18, for images of 64 pixels\n" in written
    assert "- 0.20 of it a fine-tuned top of resnet18, for images of 32 pixels\n" in written
    assert written.count("- Weights of resnet18:") == 1


def test_names_from_the_data_are_neither_markdown_nor_code_and_need_not_be_unicode(saved, tmp_path):
    model = open_trained(saved("linear"), "cpu")
    task = SingleLabel(("a|b\n\n# loud", "<img src=x>", "caf\udce9"))
    named = replace(model, method=replace(model.method, task=task))
    card = ModelCard.load(write_card(named, tmp_path / 'my "own" \udce9.onnx'))
    assert "It tells 3 classes: a\\|b \\# loud, \\<img src=x\\>, caf\\udce9." in card.content
    code = card.content.split("```python\n")[1].split("```")[0]
    assert 'my "own" \udce9.onnx' in [
        node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)
    ]

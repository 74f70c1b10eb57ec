"""All three stages on a device whose tensors may meet no others: pretended, so that it runs on any machine, or real."""

import csv
import json

import pytest
import torch

from cache import list_caches
from pipeline.cli.app import main
from stages.network.graph.trunk import ARITHMETIC, precision_on
from tests.page_figures import drawing


@pytest.fixture
def run(gpu, photographs, tmp_path):
    arguments = [
        *("run", "--data", photographs, "--image-size", "32", "--cache", tmp_path / "cache", "--out", tmp_path / "run"),
        *("--head", "logistic", "mlp", "--c-values", "0.01", "0.1", "--scalers", "standard", "--cv", "3"),
        *("--fit-epochs", "20", "--unfreeze", "1", "--epochs", "2", "--num-workers", "0", "--device", "cuda"),
    ]
    with drawing(""):
        assert main([str(argument) for argument in arguments]) == 0
    return tmp_path / "run"


def test_images_become_features_heads_and_a_tuned_network_on_a_gpu(run, photographs, tmp_path, capsys):
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))["results"]
    accuracy = {(result["method"], result["name"]): result["test"]["accuracy"] for result in results}
    assert {("linear", "logistic"), ("head", "mlp"), ("finetune", "top-1")} <= accuracy.keys()
    assert min(accuracy.values()) >= 0.7  # of three classes that differ in color
    assert json.loads((run / "environment.json").read_text(encoding="utf-8"))["accelerators"].startswith(
        torch.cuda.get_device_name(0)
    )
    assert {result["extraction_forwards"] for result in results} == {72}
    (cache,) = list_caches(tmp_path / "cache")
    by_itself = ARITHMETIC[precision_on(None, torch.device("cuda"))]
    assert (cache.rows, cache.spec.precision) == (72, by_itself)
    assert "nvjpeg" in cache.spec.decoder
    capsys.readouterr()
    command = ["predict", run, photographs / "sea", "--device", "cuda", "--out", tmp_path / "p.csv"]
    assert main([str(argument) for argument in command]) == 0
    predicted = list(csv.DictReader((tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()))
    assert len(predicted) == 24
    assert sum(row["class"] == "sea" for row in predicted) >= 17

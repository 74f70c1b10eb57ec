"""Images are predicted on a GPU as stage 1 computes them: full batches, launched as they were recorded."""

import logging
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.experiment.models.mixture_model import Network, mean_batches
from pipeline.experiment.prediction.predict_with_columns import predict_with_columns
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.config.finetune import FinetuneConfig
from stages.config.head_registry import HEADS
from stages.config.heads import HeadConfig
from stages.data.manifest import load_manifest
from stages.extraction.extractor import Extractor, build_extractor
from stages.finetuning.predict_images import (
    iter_predictions,
    iter_sample_predictions,
    predict_proba,
    read_vectors,
)
from stages.finetuning.predict_masks import iter_masks
from stages.finetuning.transfer_model import build_transfer_model, head_on_features
from stages.fitting.feature_rows import FeatureRows
from stages.fitting.fit_head import train_head
from stages.fitting.problem import FitProblem
from stages.network.aggregate import Aggregate
from stages.network.graph.cuda_graph import CudaGraph
from stages.network.heads.aggregated import AggregatedHead
from stages.network.heads.linear import LinearHead
from stages.network.heads.linear_maps import LinearMapsHead
from stages.tasks.single_label import SingleLabel
from tests.photographs import make_folder
from tests.pretended_cuda import CUDAGraph

TASK = SingleLabel(("forest", "sea", "sky"))
COUNT = 18


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Photographs, and one file among them that is none."""
    folder = make_folder(tmp_path_factory.mktemp("predict") / "images", per_class=COUNT // 3)
    files = sorted(map(str, folder.rglob("*.jpg")))
    Path(files[7]).write_bytes(b"no image")
    return files


def extractor_on(device, tmp_path, **options):
    defaults = {"image_size": 64, "precision": "fp32", "extract_batch_size": 4, "cache": tmp_path / "cache"}
    return build_extractor(FeatureConfig(weights="none", device=device, **{**defaults, **options}))


def head_for(extractor):
    torch.manual_seed(3)
    return LinearHead(extractor.row_shape, 3).to(extractor.device)


def tuned_on(extractor):
    return build_transfer_model(extractor, head_for(extractor), FinetuneConfig(unfreeze="1"), seed=1)


NETWORKS = {
    "a head": ({}, lambda extractor: head_on_features(extractor, head_for(extractor)), "none"),
    "mirror images too": ({"mirror": True}, lambda extractor: head_on_features(extractor, head_for(extractor)), "none"),
    "all depths": (
        {"taps": "stages", "pool": "avg,max"},
        lambda extractor: head_on_features(extractor, head_for(extractor)),
        "none",
    ),
    "two renderings": ({}, lambda extractor: head_on_features(extractor, head_for(extractor)), "flip"),
    "ten renderings": (
        {"extract_batch_size": 40},
        lambda extractor: head_on_features(extractor, head_for(extractor)),
        "crops",
    ),
    "a tuned network": ({}, tuned_on, "none"),
    "16 bits": ({"precision": "bf16"}, lambda extractor: head_on_features(extractor, head_for(extractor)), "none"),
}


def predicted(extractor, upper, files, tta="none"):
    batches = list(iter_predictions(extractor, upper, TASK, files, tta))
    indices = [index for batch in batches for index in batch.indices]
    full = [batch for batch in batches if batch.indices]
    failures = [number for batch in batches for number, _ in batch.failures]
    return indices, np.concatenate([b.activated for b in full]), np.concatenate([b.vectors for b in full]), failures


def as_it_is(self, images):
    """What a graph computes, computed each time."""
    with torch.inference_mode():
        return self._function(images)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_and_heads_are_recorded_once_and_answer_as_if_they_were_not(
    pretended_cuda, tmp_path, files, name, monkeypatch
):
    options, upper_on, tta = NETWORKS[name]
    extractor = extractor_on("cuda", tmp_path, **options)
    upper = upper_on(extractor)
    indices, activated, vectors, failures = predicted(extractor, upper, files, tta)
    assert (indices, failures) == ([index for index in range(COUNT) if index != 7], [7])
    of_network, of_head = pretended_cuda.graphs
    at_a_time = max(extractor.batch_size // {"none": 1, "flip": 2, "crops": 10}[tta], 1)
    assert of_network.replays == of_head.replays == 1 + -(-COUNT // at_a_time)  # a black batch, before all others
    monkeypatch.setattr(CudaGraph, "__call__", as_it_is)
    launched = predicted(extractor, upper, files, tta)
    assert np.array_equal(activated, launched[1])
    assert np.array_equal(vectors, launched[2])
    assert len(pretended_cuda.graphs) == 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_answers_are_those_of_the_network_on_either_device(pretended_cuda, tmp_path, files, device):
    extractor = extractor_on(device, tmp_path, decode_on="cpu")
    upper = head_on_features(extractor, head_for(extractor))
    _, activated, vectors, _ = predicted(extractor, upper, files)
    on_cpu = extractor_on("cpu", tmp_path)
    views = [next(iter(on_cpu.run_batches(on_cpu.evaluation_requests([file]), lambda x: [x], 1))) for file in files]
    images = torch.cat([torch.from_numpy(view.rows[0]) for view in views if view.rows])
    expected, rows = head_on_features(on_cpu, head_for(on_cpu)).activated(images, TASK)
    np.testing.assert_allclose(activated, expected, atol=1e-5)
    np.testing.assert_allclose(vectors, rows, atol=1e-4)
    assert len(pretended_cuda.graphs) == (2 if device == "cuda" else 0)


def test_what_an_image_is_given_does_not_depend_on_how_many_come_with_it(pretended_cuda, tmp_path, files):
    """Of more than a batch, all go in full ones: the last is filled up as in stage 1."""
    extractor = extractor_on("cuda", tmp_path)
    sizes = []
    frozen = extractor.trunk.forward
    extractor.trunk.forward = lambda images: sizes.append(len(images)) or frozen(images)
    upper = head_on_features(extractor, head_for(extractor))
    whole, alone = files[:7], files[:6]
    _, all_answers, _, _ = predicted(extractor, upper, whole)
    _, some, _, _ = predicted(extractor, upper, alone)
    assert set(sizes) == {4}
    assert np.array_equal(all_answers[:6], some)
    sizes.clear()
    before = len(pretended_cuda.graphs)
    predicted(extractor, upper, files[:3])  # not worth recording, nor filling up
    assert (sizes, len(pretended_cuda.graphs)) == ([3], before)


class WaitingHead(LinearHead):
    """Asks the GPU for a number, as a head of one's own may."""

    def forward(self, rows):
        return super().forward(rows) + 0.0 * float(rows.sum())


def test_a_head_that_waits_is_launched_as_it_is_and_its_network_is_recorded(pretended_cuda, tmp_path, files, caplog):
    extractor = extractor_on("cuda", tmp_path)
    head = WaitingHead(extractor.row_shape, 3).to(extractor.device)
    head.load_state_dict(head_for(extractor).state_dict())
    caplog.set_level(logging.INFO, "cutonce")
    _, activated, vectors, _ = predicted(extractor, head_on_features(extractor, head), files)
    _, expected, expected_vectors, _ = predicted(extractor, head_on_features(extractor, head_for(extractor)), files)
    assert np.array_equal(activated, expected)
    assert np.array_equal(vectors, expected_vectors)
    # the one network, then the other and its head
    assert [graph.replays for graph in pretended_cuda.graphs] == [6, 6, 6]
    assert sum("cannot be recorded as a CUDA graph" in record.message for record in caplog.records) == 1


class Waiting(nn.Module):
    """A network that waits for the GPU."""

    def __init__(self, trunk):
        super().__init__()
        self.trunk = trunk

    def forward(self, images):
        assert images.max().item() < 1e6
        return self.trunk(images)


def test_a_network_that_waits_is_launched_as_it_is(pretended_cuda, tmp_path, files):
    extractor = extractor_on("cuda", tmp_path)
    upper = head_on_features(extractor, head_for(extractor), Waiting(extractor.row_module))
    _, activated, _, _ = predicted(extractor, upper, files)
    (of_head,) = pretended_cuda.graphs
    assert of_head.replays == 6
    _, expected, _, _ = predicted(extractor, head_on_features(extractor, head_for(extractor)), files)
    assert np.array_equal(activated, expected)


def test_every_network_of_an_ensemble_is_recorded(pretended_cuda, tmp_path, files):
    networks = []
    for size in (64, 32):
        extractor = extractor_on("cuda", tmp_path, image_size=size)
        upper = head_on_features(extractor, head_for(extractor))
        networks.append(Network(0.5, SimpleNamespace(tta="none"), extractor, upper))
    (batch,) = mean_batches(networks, lambda network: iter_predictions(network.extractor, network.upper, TASK, files))
    assert [graph.replays for graph in pretended_cuda.graphs] == [6] * 4
    parts = [predicted(network.extractor, network.upper, files)[1] for network in networks]
    np.testing.assert_allclose(batch.activated, np.mean(parts, axis=0), atol=1e-6)


def test_other_ways_to_predict_are_recorded_too(pretended_cuda, tmp_path, files):
    """Samples of several images, columns beside images, the training images that others are compared with, and masks."""
    readable = [file for number, file in enumerate(files) if number != 7]
    extractor = extractor_on("cuda", tmp_path)
    upper = head_on_features(extractor, head_for(extractor))
    graphs = pretended_cuda.graphs

    samples = [readable[:2], [readable[2], None], *([file, file] for file in readable[3:8])]
    head = AggregatedHead(Aggregate("mean", places=2, features=extractor.row_shape[0]), head_for(extractor))
    of_samples = head_on_features(extractor, head.to(extractor.device))
    answered = list(iter_sample_predictions(extractor, of_samples, TASK, samples))
    assert sum(len(batch.indices) for batch in answered) == len(samples)
    assert [graph.replays for graph in graphs] == [
        5
    ]  # a black batch, and four of 13 images; heads take as many samples as are complete

    with pytest.MonkeyPatch.context() as patched:
        of_columns = np.zeros((len(files), 1), np.float32)
        patched.setattr("pipeline.experiment.prediction.predict_with_columns.encoded_columns", lambda *_: of_columns)
        joined = SimpleNamespace(model=SimpleNamespace(head=LinearHead((extractor.row_shape[0] + 1,), 3)))
        batches = list(predict_with_columns(extractor, joined, TASK, [(file, {}) for file in files], None))
    assert sum(len(batch.indices) for batch in batches) == COUNT - 1
    assert [graph.replays for graph in graphs] == [5, 6]

    manifest = load_manifest(DataConfig(str(Path(files[0]).parents[1])))
    manifest = manifest.select([index for index, file in enumerate(manifest.locations) if file in readable])
    vectors = read_vectors(extractor, upper, manifest)
    assert vectors.shape == (len(manifest), extractor.row_shape[0])
    assert [graph.replays for graph in graphs] == [5, 6, 6, 6]
    assert predict_proba(extractor, upper, manifest).shape == (len(manifest), 3)
    assert [graph.replays for graph in graphs[4:]] == [6, 6]


def test_masks_are_predicted_by_recorded_networks(pretended_cuda, tmp_path, files):
    masks = {}
    for device in ("cuda", "cpu"):
        extractor = extractor_on(
            device, tmp_path, pool="none", cut="blocks.3,blocks.5", storage_dtype="float32", decode_on="cpu"
        )
        torch.manual_seed(0)
        head = LinearMapsHead((extractor.map_layout.width,), 3, extractor.map_layout.to_json()).to(extractor.device)
        upper = head_on_features(extractor, head)
        masks[device] = list(iter_masks(extractor, upper, files))
    assert [graph.replays for graph in pretended_cuda.graphs] == [6, 6]
    assert isinstance(masks["cuda"][7].mask, str)
    same = [np.mean(a.mask == b.mask) for a, b in zip(*masks.values(), strict=True) if not isinstance(a.mask, str)]
    assert min(same) > 0.99


def rows_of(kind, count, seed=0):
    """Return rows of three classes, vectors or maps, and their classes."""
    shape = (16, 4, 4) if kind == "map" else (16,)
    targets = np.arange(count) % 3
    drawn = np.random.default_rng(seed).normal(size=(count, *shape)) + targets.reshape(-1, *[1] * len(shape))
    return drawn.astype(np.float32), targets


OF_ONE_IMAGE = sorted(
    name
    for name, kind in HEADS.known.items()
    if kind.rows in ("vector", "map", "any") and "single_label" in kind.tasks and name != "top"
)


@pytest.mark.parametrize("name", OF_ONE_IMAGE)
def test_no_head_of_ours_keeps_itself_from_being_recorded(gpu, name):
    kind = HEADS.known[name].rows
    options = HeadConfig(fit_epochs=1, cv=2, c_values=(0.1, 1.0))
    train, val = FeatureRows(*rows_of(kind, 60)), FeatureRows(*rows_of(kind, 30))
    head = train_head(name, FitProblem(train, val, TASK, options, 0, torch.device("cpu"))).module.to("cuda").eval()
    graph = CudaGraph(lambda rows: [TASK.activate(head(rows))])
    for seed in range(2):
        rows = torch.from_numpy(rows_of(kind, 8, seed)[0]).cuda()
        with torch.inference_mode():
            torch.testing.assert_close(graph(rows)[0], TASK.activate(head(rows)))
    assert len(gpu.graphs) == 1


def test_all_is_recorded_before_threads_decode(pretended_cuda, tmp_path, files, monkeypatch):
    """They may do what is forbidden meanwhile, or ends a recording."""
    begin, beside = CUDAGraph.capture_begin, []

    def noted(graph, *given, **settings):
        beside.append({thread.name.partition("_")[0] for thread in threading.enumerate()})
        begin(graph, *given, **settings)

    monkeypatch.setattr(CUDAGraph, "capture_begin", noted)
    extractor = extractor_on("cuda", tmp_path)
    predicted(extractor, head_on_features(extractor, head_for(extractor)), files)
    list(extractor.computed(extractor.evaluation_requests(files)))
    assert len(beside) == 3
    assert not set().union(*beside) & {"read", "decode", "gpu-decode"}


def test_a_batch_that_does_not_fit_is_predicted_in_parts(pretended_cuda, tmp_path, files):
    extractor = extractor_on("cuda", tmp_path, extract_batch_size=8)
    upper = head_on_features(extractor, head_for(extractor))
    _, expected, _, _ = predicted(extractor, upper, files)
    pretended_cuda.largest_allocation = 5 * 96 * 32 * 32 * 4  # of the widest layer, for five images
    with pytest.warns(UserWarning, match="not enough memory on cuda for the forward pass of [78] images: 4 at a time"):
        indices, activated, _, _ = predicted(extractor, upper, files)
    assert len(indices) == COUNT - 1
    np.testing.assert_allclose(activated, expected, atol=1e-5)


def test_extractor_fills_up_what_is_compiled():
    """What is compiled is compiled for one number of images, and launches little."""
    options = SimpleNamespace(compile_trunk=True)
    compiled = SimpleNamespace(
        device=torch.device("cuda"), options=options, batch_size=4, _is_recorded=False, _ready=lambda batches: batches
    )
    batches = Extractor.launched(compiled, lambda images: [images], images=3)
    assert (batches._size, [type(step) for step in batches._steps]) == (4, [type(lambda: None)])

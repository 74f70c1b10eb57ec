import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.inspection.layer_probe import CutScore, LayerProbe
from stages.inspection.sample_scores import scored_samples
from stages.network.backbones.registry import load_backbone
from stages.network.graph.cuts import CutGraph
from stages.network.graph.pooling import Pool
from stages.network.graph.probe_points import cuts_to_probe
from stages.network.graph.trunk import FrozenTrunk
from stages.tasks.base import find_metric
from stages.tasks.regression import Regression
from tests.stages.fitting.rows_of_digits import numbered_classes

ACCURACY = find_metric(numbered_classes(2))


def probed(name, cost, correct, images=400, width=8) -> CutScore:
    """A cut below which lie `cost` of 100 multiply-adds; counts of one seed, or of several as tuples."""
    counts = [value if isinstance(value, tuple) else (value,) for value in (images, correct)]
    right = tuple(np.arange(count) < hits for count, hits in zip(*counts, strict=True))
    return CutScore(name, name, cost, width, 2 * width, cost, 100 - cost, right, ACCURACY)


def probe_of(*cuts) -> LayerProbe:
    return LayerProbe(cuts, tuple(range(len(cuts[0].images))))


def test_the_cheapest_cut_within_one_standard_error_of_the_best_is_recommended():
    # 360 of 400: 90 %, standard error sqrt(0.9 * 0.1 / 400) = 1.5 points, so 354 are within and 353 are not
    best = probed("deep", 90, 360)
    assert best.standard_error == pytest.approx(0.015)
    within = probe_of(probed("low", 10, 353), probed("middle", 50, 354), probed("high", 70, 359), best)
    assert (within.best.name, within.recommended.name) == ("deep", "middle")
    assert within.one_se_threshold == pytest.approx(0.885)
    without = probe_of(probed("low", 10, 353), probed("middle", 50, 353), best)
    assert without.recommended is without.best is best


def test_the_best_need_not_be_the_deepest_and_of_equals_is_the_cheapest():
    probe = probe_of(
        probed("low", 10, 300), probed("middle", 50, 380), probed("high", 70, 380), probed("auto", 99, 200)
    )
    assert (probe.best.name, probe.recommended.name) == ("middle", "middle")
    assert [cut.name for cut in probe.ranked] == ["middle", "high", "low", "auto"]


def test_of_cuts_with_as_many_multiply_adds_the_one_with_fewer_bytes_is_cheaper():
    probe = probe_of(probed("wide", 50, 380, width=512), probed("narrow", 50, 380, width=64))
    assert probe.recommended.name == "narrow"


def test_accuracy_and_error_are_of_the_images_of_all_seeds_together():
    score = probed("a", 10, (90, 30), images=(100, 60))
    assert score.scores == (0.9, 0.5)
    assert score.score == 120 / 160
    assert score.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 160))
    assert score.saved == 0.9


def test_a_score_that_is_no_mean_over_images_is_that_of_each_seed_and_its_error_is_bootstrapped():
    generator, task = np.random.default_rng(0), Regression()
    seeds = []
    for noise in (0.3, 0.6):
        true = generator.normal(size=(150, 1))
        seeds.append(scored_samples(task, true + noise * generator.normal(size=true.shape), true))
    metric = find_metric(task)
    score = CutScore("a", "a", 1, 8, 16, 10, 90, tuple(seeds), metric)
    assert score.scores == tuple(metric.score(samples) for samples in seeds)
    assert score.score == pytest.approx(np.mean(score.scores))
    resampled = [[metric.score(samples[generator.integers(150, size=150)]) for samples in seeds] for _ in range(300)]
    assert score.standard_error == pytest.approx(np.std(np.mean(resampled, axis=1)), rel=0.2)


@given(
    st.lists(
        st.tuples(st.integers(1, 100), st.lists(st.integers(0, 50), min_size=2, max_size=2)), min_size=1, max_size=24
    )
)
def test_the_rule_holds_for_any_numbers(rows):
    probe = probe_of(*(probed(f"{at}", cost, tuple(right), images=(50, 50)) for at, (cost, right) in enumerate(rows)))
    recommended, best = probe.recommended, probe.best
    assert best.score == max(cut.score for cut in probe.cuts)
    assert recommended.score >= best.score - math.sqrt(best.score * (1 - best.score) / 100)
    for cut in probe.cuts:
        assert cut.multiply_adds >= recommended.multiply_adds or cut.score < best.score - best.standard_error


# -- which cuts ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graphs():
    backbones = {name: load_backbone(name, "none", 64) for name in ("resnet18", "efficientnet_lite0")}
    return {name: CutGraph(backbone.module, 64) for name, backbone in backbones.items()}


def names(cuts):
    return [cut.alias or cut.name for cut in cuts]


def test_the_residual_blocks_of_a_resnet_are_probed_with_stem_and_classifier_input(graphs):
    blocks = ["maxpool", "layer1.0", "layer1", "layer2.0", "layer2", "layer3.0", "layer3", "layer4.0"]
    # averaged, the output of the last block is the classifier's input
    assert names(cuts_to_probe(graphs["resnet18"], "avg")) == [*blocks, "flatten"]
    assert names(cuts_to_probe(graphs["resnet18"], "max")) == [*blocks, "avgpool", "flatten"]


def test_the_blocks_of_each_stage_are_probed(graphs):
    cuts = cuts_to_probe(graphs["efficientnet_lite0"], "avg")
    stages = {1: 1, 2: 2, 3: 2, 4: 3, 5: 3, 6: 4, 7: 1}  # blocks of each stage of EfficientNet-Lite0
    assert len(cuts) == 1 + sum(stages.values()) + 1
    assert names(cuts)[7:10] == ["blocks.3.1", "blocks.3", "blocks.4.0"]


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_cuts_lie_one_above_the_other_and_end_at_the_classifier(graphs, name):
    graph = graphs[name]
    cuts = cuts_to_probe(graph, "avg")
    indices = [graph.cuts.index(cut) for cut in cuts]
    assert indices == sorted(set(indices))
    assert cuts[-1] == graph.resolve("auto")


def test_where_there_are_more_blocks_as_many_as_allowed_are_spread_evenly(graphs):
    every = cuts_to_probe(graphs["efficientnet_lite0"], "avg")
    subset = cuts_to_probe(graphs["efficientnet_lite0"], "avg", most=7)
    indices = [every.index(cut) for cut in subset]
    assert (len(subset), indices[0], indices[-1]) == (7, 0, len(every) - 1)
    steps = [after - before for before, after in pairwise(indices)]
    assert max(steps) - min(steps) <= 1


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_no_cut_lies_between_a_convolution_and_its_normalization(graphs, name):
    """All of them can be extracted in one pass in reduced precision, which refuses such cuts."""
    cuts = cuts_to_probe(graphs[name], "avg")
    trunk = FrozenTrunk(graphs[name], [(cut, Pool("avg", cut)) for cut in cuts], "bf16", torch.device("cpu"))
    normalizations = sum(isinstance(module, torch.nn.BatchNorm2d) for module in graphs[name].module.modules())
    assert trunk.folded == normalizations


def test_a_transformer_is_probed_at_each_encoder_block():
    backbone = load_backbone("timm:vit_tiny_patch16_224", "none", None)
    graph = CutGraph(backbone.module, backbone.preprocessing.image_size)
    cuts = cuts_to_probe(graph, "avg")
    assert [cut.layout for cut in cuts] == ["tokens"] * 13 + ["vector"]
    assert names(cuts)[1:12] == [f"blocks.{block}" for block in range(11)]

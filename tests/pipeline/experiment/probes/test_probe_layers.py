import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
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


def test_the_cheapest_cut_that_is_not_told_apart_from_the_best_on_the_same_images_is_recommended():
    # right on 360 of 400 and on 6 of these less: 1.5 points, which no image speaks against, are told apart
    best = probed("deep", 90, 360)
    assert best.standard_error == pytest.approx(0.015)
    told_apart = probe_of(probed("low", 10, 353), probed("middle", 50, 354), best)
    assert told_apart.recommended is told_apart.best is best
    loss = told_apart.loss_of(told_apart.cuts[1])
    assert loss.value == pytest.approx(0.015)
    assert loss.standard_error == pytest.approx(np.std(np.arange(400) < 6, ddof=1) / 20)
    assert 0 < loss.low < 0.015 < loss.high < 0.035  # exact, from 6 of 6: no normal interval
    # as far behind, but ahead on other images: 26 against 20
    right = np.concatenate([np.arange(360) >= 26, np.arange(40) < 20])
    even = probe_of(probed("low", 10, 353), replace(probed("middle", 50, 354), samples=(right,)), best)
    assert (even.best.name, even.recommended.name) == ("deep", "middle")
    assert even.loss_of(even.cuts[1]).standard_error == pytest.approx(math.sqrt(46) / 400, rel=0.02)


def test_of_few_images_a_cut_that_lost_five_points_is_not_recommended():
    """Twenty of sixty images speak for either: one standard error is 7.3 points, and says nothing of 5 lost ones."""
    right = np.arange(60) < 42
    cheap = np.concatenate([np.arange(42) >= 11, np.arange(18) < 8])
    best = replace(probed("deep", 90, 42, images=60), samples=(right,))
    low = replace(probed("low", 10, 39, images=60), samples=(cheap,))
    probe = probe_of(low, best)
    assert low.score == 0.65 < best.score == 0.7
    assert probe.losses[0].standard_error > 0.05
    assert probe.recommended is best


def test_tests_of_one_image_and_images_of_one_group_count_as_one():
    """The same 100 images under four seeds are no 400."""
    generator = np.random.default_rng(0)
    rights = [generator.random(100) < share for share in (0.8, 0.78)]
    cuts = [
        replace(probed(name, cost, 80, images=100), samples=(right,) * 4)
        for name, cost, right in zip("ab", (90, 10), rights, strict=True)
    ]
    keys = np.arange(100).astype(str)
    apart, together = (LayerProbe(tuple(cuts), (0, 1, 2, 3), groups) for groups in (None, (keys,) * 4))
    once = LayerProbe(tuple(replace(cut, samples=cut.samples[:1]) for cut in cuts), (0,))
    worse = 1 - [cut.name for cut in cuts].index(once.best.name)
    assert together.losses[worse].standard_error == pytest.approx(once.losses[worse].standard_error)
    assert together.losses[worse].standard_error == pytest.approx(2 * apart.losses[worse].standard_error, rel=0.02)
    widths = [probe.losses[worse].high - probe.losses[worse].low for probe in (together, apart)]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.2)


def test_a_loss_of_a_score_that_is_no_mean_over_images_is_resampled_in_pairs():
    generator, task = np.random.default_rng(0), Regression()
    true, noise = generator.normal(size=(300, 1)), generator.normal(size=(300, 1))
    samples = [scored_samples(task, true + scale * noise, true) for scale in (0.5, 0.52)]
    metric = find_metric(task)
    cuts = [CutScore(name, name, 1, 8, 16, 10, 90, (one,), metric) for name, one in zip("ab", samples, strict=True)]
    loss = probe_of(*cuts).losses[1]
    assert loss.value == pytest.approx(cuts[0].score - cuts[1].score)
    assert 0 < loss.low < loss.value < loss.high
    assert loss.standard_error < cuts[0].standard_error / 5  # their noise is the same


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


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(1, 100), st.lists(st.integers(0, 50), min_size=2, max_size=2)), min_size=1, max_size=24
    )
)
def test_the_rule_holds_for_any_numbers(rows):
    probe = probe_of(*(probed(f"{at}", cost, tuple(right), images=(50, 50)) for at, (cost, right) in enumerate(rows)))
    recommended, best = probe.recommended, probe.best
    assert best.score == max(cut.score for cut in probe.cuts)
    assert recommended is best or probe.loss_of(recommended).is_tie
    for cut in probe.cuts:
        assert cut.multiply_adds >= recommended.multiply_adds or not probe.loss_of(cut).is_tie


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

"""What speaks for a class in an image is that of the network, the head and the weights of the method itself."""

import logging
import shutil

import numpy as np
import torch
from PIL import Image

from pipeline.evaluation.results import Result
from pipeline.experiment.models.mixture_members import Member, save_members
from pipeline.experiment.models.model_card import read_recipe
from pipeline.experiment.models.model_store import save_card, save_model
from pipeline.experiment.pages import heat_maps as heat_maps_module
from pipeline.experiment.pages.heat_maps import heat_maps
from stages.data.sources.open_image import read_image
from stages.network.heads.ensemble import EnsembleHead
from stages.network.heads.linear import LinearHead
from stages.network.heads.serialization import load_head


def asked(directory, count=6):
    predictions = Result.load(directory).predictions
    keys = [key.decode() for key in predictions.keys[:count]]
    return keys, [str(location) for location in predictions.locations[:count]]


def heat_of(directory, keys, locations, classes):
    return heat_maps(directory, keys, locations, classes).maps


def last_map(experiment, location):
    """The last map below the automatic cut, [c, h, w], and the pixels that it is of."""
    graph = experiment.extractor.graph
    names = [each.name for each in graph.cuts]
    below = graph.cuts[: names.index(graph.resolve("auto").name)]
    last = [each for each in below if each.layout != "vector" and each.places > 1][-1]
    pixels = experiment.extractor.backbone.preprocessing.render(read_image(location))
    with torch.no_grad():
        maps = graph.section(None, last)(experiment.extractor.backbone.preprocessing.normalize(pixels[None]))[0]
    return maps, pixels


def activation(experiment, location, weights):
    """What weights of a class make of each place of that map, [h, w], and the pixels."""
    maps, pixels = last_map(experiment, location)
    return torch.einsum("chw,c->hw", maps, weights).clamp(min=0), pixels


def of_class(head, number):
    """The weights of an output, less the mean of those of all."""
    weights = head.output.weight.detach()
    return weights[number] - weights.mean(dim=0)


def linear_of(directory, number):
    return of_class(load_head(directory / "head.safetensors")[0], number)


def compared(found, experiment, locations, weights_of):
    """Hold heat maps against activation maps; return how many there are."""
    some = 0
    for number, (heat, location) in enumerate(zip(found, locations, strict=True)):
        expected, pixels = activation(experiment, location, weights_of(number))
        if expected.max() == 0:
            assert heat is None or heat.least_against
            continue
        some += 1
        assert not heat.least_against
        assert np.array_equal(heat.view, pixels.permute(1, 2, 0).numpy())
        assert np.allclose(heat.strengths, (expected / expected.max()).numpy(), atol=1e-3)
    return some


def test_heat_of_a_linear_head_behind_an_average_is_the_class_activation_map(trained_runs):
    """What the weights of a class make of each place of the last map, whose mean is the class's output."""
    _, experiment = trained_runs
    directory = experiment.directory / "linear-ridge"
    keys, locations = asked(directory, 12)
    classes = Result.load(directory).predictions.statistics["target"][:12].tolist()
    found = heat_of(directory, keys, locations, classes)
    assert compared(found, experiment, locations, lambda number: linear_of(directory, classes[number])) > 1


def test_the_class_whose_output_is_left_at_zero_has_what_speaks_against_the_other(trained_runs, tmp_path):
    """Logistic regression on two classes puts all that it knows into the output of one."""
    _, experiment = trained_runs
    directory = experiment.directory / "linear-ridge"
    keys, locations = asked(directory)
    first = two_heads(experiment)[0]
    second = LinearHead((experiment.extractor.row_shape[0],), 3)
    second.output.weight.data.copy_(first.output.weight - first.output.weight[2:])  # the same softmax
    found = [
        heat_of(saved_beside(directory, head, tmp_path / name), keys, locations, [2] * len(keys))
        for name, head in (("first", first), ("second", second))
    ]
    assert compared(found[1], experiment, locations, lambda _: of_class(first, 2)) > 1
    for one, other in zip(*found, strict=True):
        assert np.allclose(one.strengths, other.strengths, atol=1e-3)


def test_of_several_cuts_the_deepest_map_is_explained_by_the_weights_of_its_own_part(on_depths):
    directory = on_depths.directory / "linear-ridge"
    keys, locations = asked(directory)
    found = heat_of(directory, keys, locations, [0] * len(keys))
    width = on_depths.extractor.taps[1].shape[0]
    weights = linear_of(directory, 0)
    assert len(weights) > width
    assert compared(found, on_depths, locations, lambda _: weights[-width:]) > 1


def test_heat_of_mirrored_features_is_mirrored_with_the_image(on_mirrored, tmp_path):
    directory = on_mirrored.directory / "linear-ridge"
    keys, locations = asked(directory, 5)
    mirrored = []
    for number, location in enumerate(locations):
        photograph = Image.open(location)
        paths = [str(tmp_path / f"{name}-{number}.png") for name in ("as-it-is", "mirrored")]
        photograph.save(paths[0])
        photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(paths[1])
        mirrored.append(paths)
    here, there = (heat_of(directory, keys, list(part), [0] * len(keys)) for part in zip(*mirrored, strict=True))
    pairs = [pair for pair in zip(here, there, strict=True) if None not in pair]
    assert len(pairs) > 1
    for one, other in pairs:
        np.testing.assert_allclose(one.strengths, other.strengths[:, ::-1], atol=2e-2)
    assert any(not np.allclose(one.strengths, one.strengths[:, ::-1], atol=0.05) for one, _ in pairs)


def saved_beside(directory, head, path):
    save_model(path, read_recipe(directory), head)
    return path


def two_heads(experiment):
    """Heads that say about as much of a map, where trained ones say as much as their samples are easily told apart."""
    random = torch.Generator().manual_seed(0)
    heads = [LinearHead((experiment.extractor.row_shape[0],), 3) for _ in range(2)]
    for head in heads:
        head.output.weight.data = 0.2 + torch.randn(head.output.weight.shape, generator=random)
    return heads


def test_an_ensemble_is_the_weighted_sum_of_its_members(trained_runs, tmp_path):
    _, experiment = trained_runs
    directory = experiment.directory / "linear-ridge"
    keys, locations = asked(directory)
    heads = two_heads(experiment)
    ensemble = EnsembleHead.weighted(heads, [0.3, 0.7], "softmax")
    found = heat_of(saved_beside(directory, ensemble, tmp_path / "both"), keys, locations, [2] * len(keys))
    weights = 0.3 * of_class(heads[0], 2) + 0.7 * of_class(heads[1], 2)
    assert compared(found, experiment, locations, lambda _: weights) > 1


def mixture_of(models, weights, path):
    members = [
        Member(model.name, weight, None, "lite0", None, 64) for model, weight in zip(models, weights, strict=True)
    ]
    save_members(path, members, models)
    save_card(path, read_recipe(models[0]))
    return path


def test_a_mean_over_networks_is_the_weighted_sum_of_theirs_over_the_same_places(trained_runs, tmp_path):
    folder, experiment = trained_runs
    trained = [experiment.directory / "linear-ridge", folder / "run-32" / "seed-0" / "linear-ridge"]
    models = [
        saved_beside(directory, head, tmp_path / f"{number}" / directory.name)
        for number, (directory, head) in enumerate(zip(trained, two_heads(experiment), strict=True))
    ]
    keys, locations = asked(trained[0])
    classes = [1] * len(keys)
    alone = [heat_of(model, keys, locations, classes) for model in models]
    # a member that counts for nearly all
    almost = heat_of(mixture_of(models, [0.9999, 0.0001], tmp_path / "almost"), keys, locations, classes)
    both = heat_of(mixture_of(models, [0.2, 0.8], tmp_path / "both"), keys, locations, classes)
    rows = [row for row in zip(*alone, almost, both, strict=True) if None not in row]
    assert rows
    for larger, smaller, nearly, mean in rows:
        assert np.allclose(nearly.strengths, larger.strengths, atol=5e-3)
        assert not np.allclose(mean.strengths, smaller.strengths, atol=5e-3)
        assert np.array_equal(mean.view, larger.view)
    assert any(not np.allclose(mean.strengths, larger.strengths, atol=0.01) for larger, _, _, mean in rows)


def test_heat_of_a_fine_tuned_network_is_of_what_was_tuned(trained_runs, tmp_path):
    from safetensors.torch import load_file, save_file

    _, experiment = trained_runs
    directory = experiment.directory / "finetune-top-1"
    keys, locations = asked(directory)
    tuned = heat_of(directory, keys, locations, [0] * len(keys))
    assert sum(heat is not None for heat in tuned) > 1
    assert all(heat.strengths.min() >= 0 and heat.strengths.max() == 1 for heat in tuned if heat is not None)
    copy = tmp_path / "finetune"
    shutil.copytree(directory, copy)
    tensors = {
        name: value * 1.5 if "weight" in name else value for name, value in load_file(copy / "top.safetensors").items()
    }
    save_file(tensors, copy / "top.safetensors")
    others = heat_of(copy, keys, locations, [0] * len(keys))
    pairs = [pair for pair in zip(tuned, others, strict=True) if None not in pair]
    assert len(pairs) > 1
    assert any(not np.allclose(heat.strengths, other.strengths, atol=1e-3) for heat, other in pairs)


def test_what_no_place_speaks_for_has_a_map_of_what_speaks_least_against_it(trained_runs, tmp_path, caplog):
    _, experiment = trained_runs
    directory = experiment.directory / "linear-ridge"
    keys, locations = asked(directory)
    against = LinearHead((experiment.extractor.row_shape[0],), 3)
    against.output.weight.data.fill_(0.0)
    against.output.weight.data[0] = -1.0
    silent = saved_beside(directory, against, tmp_path / "against")
    with caplog.at_level(logging.INFO, "cutonce"):
        found = heat_maps(silent, keys, [*locations[:-1], "gone.jpg"], [0] * len(keys))
    assert found.maps[-1] is None
    for heat, location in zip(found.maps[:-1], locations[:-1], strict=True):
        against_it, pixels = activation(experiment, location, -of_class(against, 0))
        expected = (against_it.mean() - against_it).clamp(min=0)
        assert heat.least_against
        assert np.array_equal(heat.view, pixels.permute(1, 2, 0).numpy())
        assert np.allclose(heat.strengths, (expected / expected.max()).numpy(), atol=1e-3)
    words = (
        "In 5 of 5 images no place speaks for what is predicted: the heat map is of where such an image speaks least "
        "against it."
    )
    assert found.note == f"1 of the 6 images cannot be read any more. {words}"
    assert [record.message for record in caplog.records] == [f"note: {found.note.rstrip('.')}"]


def test_what_has_no_map_is_told_once_with_its_reason(trained_runs, tmp_path, caplog):
    _, experiment = trained_runs
    directory = experiment.directory / "linear-ridge"
    keys, locations = asked(directory)
    off = torch.stack([last_map(experiment, location)[0].amax(dim=(1, 2)) for location in locations]).amax(dim=0) == 0
    assert off.any()  # channels that are off at all places of these images
    head = LinearHead((experiment.extractor.row_shape[0],), 3)
    head.output.weight.data.fill_(0.0)
    head.output.weight.data[0, off] = 1.0
    found = heat_maps(saved_beside(directory, head, tmp_path / "off"), keys, locations, [0] * len(keys))
    assert found.maps == [None] * len(keys)
    assert found.note == "6 of 6 images have no heat map, as no place of them counts more than another."
    other = read_recipe(directory).__class__(**{**vars(read_recipe(directory)), "weights_digest": "of another"})
    save_model(tmp_path / "other", other, head)
    with caplog.at_level(logging.INFO, "cutonce"):
        found = heat_maps(tmp_path / "other", keys, locations, [0] * len(keys))
    assert found.note.startswith("There are no heat maps: ")
    assert "was trained on other weights" in found.note
    assert len(caplog.records) == 1
    assert heat_maps(tmp_path / "nothing", keys, locations, [0] * len(keys)).note == (
        "There are no heat maps: no model lies beside these results (an evaluation keeps none)."
    )


def test_that_a_network_is_opened_is_said_where_it_takes_long(trained_runs, caplog, monkeypatch):
    _, experiment = trained_runs
    directory = experiment.directory / "linear-ridge"
    keys, locations = asked(directory, 2)
    said = "heat maps: efficientnet_lite0 is opened, and the 2 images shown go through it"
    with caplog.at_level(logging.INFO, "cutonce"):
        heat_maps(directory, keys, locations, [0, 0])
        assert said not in caplog.messages
        monkeypatch.setattr(heat_maps_module, "_SLOW", 0.0)
        heat_maps(directory, keys, locations, [0, 0])
    assert caplog.messages.count(said) == 1

"""One module from pixels to answers: for every kind of task, head and sample what the run itself answers."""

from dataclasses import replace

import pytest
import torch

from cache.errors import UsageError
from pipeline.export.equality import asked_sample, compare_with_run
from pipeline.export.exported_module import ExportedModule, fixed_places
from pipeline.library.export_model import open_trained
from pipeline.run_layout import MANIFEST
from stages.config.head_registry import HEADS, find_head
from stages.data.manifest import Manifest
from stages.network.heads.registry import _MADE_OF_HEADS, saved_class
from stages.network.heads.serialization import read_head
from tests.saved_methods import KINDS, SEVERAL


def in_torch(model):
    """Return what runs a module as a file would be run."""
    module = ExportedModule(model)

    def run(inputs):
        outputs = module(*map(torch.from_numpy, inputs))
        return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_as_the_run_for_images_of_unlike_sizes(saved, kind):
    model = open_trained(saved(kind), "cpu")
    manifest = Manifest.load(model.directory.parent / MANIFEST)
    samples = [asked_sample(manifest, index) for index in range(len(manifest))]
    equality = compare_with_run(model, in_torch(model), samples)
    assert (equality.samples, equality.difference < 5e-5) == (6, True)
    assert equality.sizes == 6 or kind in (*SEVERAL, "table")


def heads_in(config):
    """Yield the names of a head and of those it is made of."""
    yield config["head"]
    for inner in (*config.get("members", ()), *(config[name] for name in ("inner", "output") if name in config)):
        if isinstance(inner, dict):
            yield from heads_in(inner)


def test_no_kind_of_head_is_missing_among_those_that_are_looked_at(saved):
    files = [file for kind in KINDS for file in saved(kind).rglob("head.json")]
    used = {saved_class(name) for file in files for name in heads_in(read_head(file)[0])}
    kinds = [find_head(name) for name in HEADS.names()]
    own = [kind.name for kind in kinds if kind.in_epochs or kind.saved_as]  # what others fit is saved as one of these
    assert {saved_class(name) for name in (*own, *_MADE_OF_HEADS)} - used == set()


def test_calibrated_probabilities_leave_as_predict_gives_them(saved):
    model = open_trained(saved("linear"), "cpu")
    model = replace(model, decision=replace(model.decision, temperature=2.5))
    manifest = Manifest.load(model.directory.parent / MANIFEST)
    compare_with_run(model, in_torch(model), [asked_sample(manifest, 0)])


def test_a_method_that_looks_at_tiles_is_refused_with_what_to_do(saved):
    model = open_trained(saved("masks"), "cpu")
    extractor = replace(model.extractor, options=replace(model.extractor.options, tile=32))
    with pytest.raises(
        UsageError, match=r"cuts images into tiles \(`tile` 32\).*a run without `tile`, or let `predict`"
    ):
        ExportedModule(replace(model, networks=(replace(model.networks[0], extractor=extractor),)))


def test_only_heads_that_say_so_need_just_as_many_images(saved):
    heads = {kind: open_trained(saved(kind), "cpu").transfer.model.head for kind in ("mean", "concat", "mil", "gru")}
    assert {kind: fixed_places(head) for kind, head in heads.items()} == {
        "mean": False,
        "concat": True,
        "mil": False,
        "gru": True,
    }

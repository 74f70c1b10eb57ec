import gc
import os
from pathlib import Path
from types import SimpleNamespace
from urllib.request import install_opener

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers

from stages.runtime.allocator import freed_memory_returned
from stages.runtime.openmp import configure_openmp
from tests.dense_images import make_dense_folder
from tests.photographs import make_folder

configure_openmp()  # before torch is imported: tests share the cores

settings.register_profile("half", max_examples=50)
settings.load_profile("half")

# Hypothesis would parse every module of ours, for ten seconds in each worker, to try their constants now and then.
vars(providers)["_get_local_constants"] = lambda: providers._local_constants

LONG_FILES = (
    "pipeline/cli/test_commands.py",
    "stages/runtime/test_distributed.py",
    "stages/network/graph/test_cuts.py",
    "stages/network/graph/test_bn_folding.py",
    "stages/finetuning/test_finetune.py",
    "pipeline/cli/test_probe_layers.py",
    "benchmarks/test_extract.py",
    "benchmarks/test_faults.py",
    "benchmarks/test_gpu.py",
    "pipeline/cli/test_on_a_gpu.py",
    "stages/config/test_head_registry.py",
    "stages/extraction/test_work_queue.py",
    "stages/extraction/test_extract.py",
    "stages/extraction/test_faults.py",
    "stages/fitting/test_fit_head_on_dask.py",
    "pipeline/library/test_functions.py",
    "pipeline/library/test_estimators.py",
    "test_extending.py",
    "test_what_is_read.py",
    "test_written_whole.py",
)
"""Those that take long, the longest first, and those that take some time and would come last."""


@pytest.fixture(autouse=True, scope="module")
def freed_memory_goes_back():
    """A process that runs the tests of many files holds what the largest took; that malloc keeps it is for commands."""
    with freed_memory_returned():
        yield


@pytest.fixture(autouse=True)
def no_opener_is_kept():
    """urllib keeps the proxies that the first test which opened something had set, and the next would ask them too."""
    install_opener(None)
    yield
    install_opener(None)


def pytest_addoption(parser):
    parser.addoption(
        "--pretend-cuda", action="store_true", help="let torch believe in a CUDA device; see tests/pretended_cuda.py"
    )


def pytest_configure(config):
    """Pretend before test files are imported: what they ask torch then, they would ask where a GPU is."""
    if config.getoption("--pretend-cuda"):
        from tests.pretended_cuda import pretend_cuda

        os.environ["PRETEND_CUDA"] = "yes"  # tests/ready_processes.py
        config.pretending = pretend_cuda(rounds=True)
        config.pretending.__enter__()


def pytest_unconfigure(config):
    if hasattr(config, "pretending"):
        config.pretending.__exit__(None, None, None)


def pytest_runtest_setup(item):
    """Skip what needs a GPU, and says so by the marker, where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if item.config.getoption("--pretend-cuda") or not torch.cuda.is_available():
            pytest.skip("needs a GPU, and here is none")


@pytest.fixture
def no_collector():
    """Nothing is let go of but what nobody holds, as between two collections."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def pretended_cuda():
    """A CUDA device that is none, and computes to the last bit what the CPU does; see tests/pretended_cuda.py."""
    from stages.data.images import gpu_jpeg, preprocessing
    from tests.pretended_cuda import pretend_cuda

    # what is remembered of a device is of no other
    remembered = [gpu_jpeg.why_no_gpu_decoder, gpu_jpeg.say_once, preprocessing.scale_and_shift]
    with pretend_cuda() as device:
        for function in remembered:
            function.cache_clear()
        yield device
        device.end_of_test()
    for function in remembered:
        function.cache_clear()


@pytest.fixture(params=["pretended", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request, monkeypatch):
    """A CUDA device, for one test each: the pretended one, and the machine's own. Both have the `graphs` recorded.

    Both round otherwise than the CPU.
    """
    if request.param == "pretended":
        device = request.getfixturevalue("pretended_cuda")
        device.rounds = True
        return device
    import torch

    torch.cuda.init()  # before that it has no memory that can be asked about
    graphs = []

    class CountedGraph(torch.cuda.CUDAGraph):
        replays = 0

        def capture_end(self):
            super().capture_end()
            graphs.append(self)

        def replay(self):
            self.replays += 1
            super().replay()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", CountedGraph)
    return SimpleNamespace(graphs=graphs)


@pytest.fixture(autouse=True)
def _faults_of_the_pretended_device(request):
    """Where all tests pretend, each of them answers for its own faults."""
    yield
    if hasattr(request.config, "pretending"):
        from tests.pretended_cuda import pretend_cuda

        with pretend_cuda() as device:
            device.end_of_test()


def pytest_collection_modifyitems(items):
    """Begin with the long files: a file goes to a worker whole, and the others would wait for one that comes last."""
    rank = {Path(__file__).parent / name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


KEEP_INHERITED = True
"""Whether what a test forks leaves alone what it inherits; see `stages.runtime.threads.keep_what_is_inherited`."""


def _after_fork():
    """Keep what other tests have left: a session or a scaler among it, destroyed there, would wait for its threads."""
    if KEEP_INHERITED:
        gc.freeze()


os.register_at_fork(after_in_child=_after_fork)


def pytest_collection_finish():
    """Leave the objects of the libraries, a million, out of every later search for garbage."""
    gc.freeze()


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """A folder of 3 classes of 24 photographs, shared: tests that change files make their own."""
    return make_folder(tmp_path_factory.mktemp("data") / "photographs")


@pytest.fixture(scope="session")
def dense_folder(tmp_path_factory):
    """A folder of 20 small images with masks, shared: tests that change files make their own."""
    return make_dense_folder(tmp_path_factory.mktemp("data") / "dense")


@pytest.fixture(scope="session", autouse=True)
def _figures_made_and_not_drawn():
    """Leave the figures of a page empty, seconds each page, where a test does not ask for them by `drawing`."""
    from tests.page_figures import drawing

    with drawing():
        yield


@pytest.fixture(scope="session", autouse=True)
def _networks_loaded_once():
    """Load, trace and fold these networks once for all that extract with them: seconds, and nobody may change them.

    Files of weights are read each time, since tests write other ones under the same name.
    """
    import stages.extraction.extractor as extraction
    import stages.finetuning.transfer_model as transfer_model
    from stages.network.backbones.weights_file import digest_of_weights

    load, trace, freeze = extraction.load_backbone, extraction.cut_graph, extraction.FrozenTrunk
    backbones, graphs, trunks = {}, {}, {}

    def load_once(name, weights="default", image_size=None, **matching):
        if name not in ("efficientnet_lite0", "resnet18") or weights not in ("default", "none"):
            return load(name, weights, image_size, **matching)
        asked = (name, weights, image_size, *sorted(matching.items()))
        if asked not in backbones:
            backbones[asked] = load(name, weights, image_size, **matching)
        return backbones[asked]

    def trace_once(module, image_size):
        if not any(module is backbone.module for backbone in backbones.values()):
            return trace(module, image_size)
        if (id(module), image_size) not in graphs:
            graphs[id(module), image_size] = trace(module, image_size)
        return graphs[id(module), image_size]

    def fold_once(graph, taps, precision, device):
        kinds = [pool.kind for _, pool in taps]
        if device.type != "cpu":  # which may be pretended, for one test
            return freeze(graph, taps, precision, device)
        if not any(graph is known for known in graphs.values()) or not {*kinds} <= {"none", "avg", "max", "avgmax"}:
            return freeze(graph, taps, precision, device)
        asked = (id(graph), *(cut.name for cut, _ in taps), *kinds, precision, str(device))
        if asked not in trunks:
            trunk = freeze(graph, taps, precision, device)
            if len(trunks) == 20:
                check_trunk(next(iter(trunks)))
            trunks[asked] = trunk, digest_of_weights(trunk)
        return trunks[asked][0]

    def check_trunk(asked):
        trunk, digest = trunks.pop(asked)
        assert digest_of_weights(trunk) == digest, f"a test changed the frozen network of {asked}"

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(extraction, "load_backbone", load_once)
        patched.setattr(extraction, "cut_graph", trace_once)
        patched.setattr(extraction, "FrozenTrunk", fold_once)
        patched.setattr(transfer_model, "FrozenTrunk", fold_once)
        yield
    for asked, backbone in backbones.items():
        assert digest_of_weights(backbone.module) == backbone.weights, f"a test changed {asked}"
    for asked in [*trunks]:
        check_trunk(asked)

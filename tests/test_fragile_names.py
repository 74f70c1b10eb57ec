"""What is used of torch, torchvision and timm that they may move without notice, each by name: which one moved?"""

from importlib import import_module

import pytest
import torch

NAMES = [
    *("torch._subclasses.fake_tensor.FakeTensorMode", "torch.multiprocessing.reductions.StorageWeakRef"),
    *("torch.utils._pytree.tree_leaves", "torch.utils._python_dispatch.TorchDispatchMode"),
    *("torch.backends.mha.set_fastpath_enabled", "torch.backends.mha.get_fastpath_enabled"),
    *("torch.default_generator", "torch._sample_dirichlet", "torch._C.DisableTorchFunction"),
    "torch.distributed.rendezvous.rendezvous",
    *("torchvision.models.feature_extraction.NodePathTracer", "timm.models.get_notrace_modules"),
    "timm.models.get_notrace_functions",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_not_promised_is_still_there(name):
    module, _, attribute = name.rpartition(".")
    assert hasattr(import_module(module), attribute), f"{name} has moved"


def test_an_operator_still_takes_itself_apart():
    """What cannot be recorded as a CUDA graph is found by the parts of operators."""
    values = torch.arange(4.0)
    with torch.inference_mode():
        assert torch.ops.aten.item.default.decompose(values[1]) == 1
    assert torch.ops.aten.add.Tensor.decompose(values, values) is NotImplemented
    assert torch.ops.aten.add.Tensor.overloadpacket.__name__ == "add"


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_onednn_still_takes_an_activation_with_a_convolution():
    takes = torch.ops.mkldnn._convolution_pointwise.default._schema.arguments
    assert [argument.name for argument in takes][3:] == [
        *("padding", "stride", "dilation", "groups", "attr", "scalars", "algorithm")
    ]
    assert torch.ops.mkldnn._is_mkldnn_bf16_supported() in (True, False)


def test_a_tracer_still_tells_the_paths_of_its_nodes():
    tracer = import_module("torchvision.models.feature_extraction").NodePathTracer()
    graph = tracer.trace(torch.nn.Sequential(torch.nn.ReLU()))
    assert [tracer.node_to_qualname.get(node) for node in graph.nodes][1] == "0"


def test_errors_of_files_that_hold_more_than_tensors_are_those_of_pickle():
    assert import_module("torch._weights_only_unpickler").UnpicklingError is import_module("pickle").UnpicklingError

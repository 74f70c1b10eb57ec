import torch
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from stages.network.graph.cuts import CutGraph
from stages.network.graph.pooling import Pool
from stages.network.graph.trunk import FrozenTrunk
from stages.network.memory_format import to_channels_last


def test_tensors_lie_as_torch_would_lay_them_and_keep_their_values():
    ours = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2))
    torchs = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2))
    torchs.load_state_dict(ours.state_dict())
    torchs.to(memory_format=torch.channels_last)
    to_channels_last(ours)
    for name, tensor in ours.state_dict().items():
        assert tensor.stride() == torchs.state_dict()[name].stride()
        assert torch.equal(tensor, torchs.state_dict()[name])


def test_a_swin_transformer_whose_trace_keeps_masks_of_rank_5_computes_what_the_network_does():
    torch.manual_seed(0)
    swin = SwinTransformer(
        img_size=32, patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4
    ).eval()
    graph = CutGraph(swin, 32)
    cut = graph.resolve("auto")
    trunk = FrozenTrunk(graph, [(cut, Pool("avg", cut))], "fp32", torch.device("cpu"))
    assert any(buffer.ndim == 5 for buffer in trunk.buffers())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = swin.forward_head(swin.forward_features(images), pre_logits=True)
    torch.testing.assert_close(trunk(images)[0], expected, rtol=1e-4, atol=1e-5)

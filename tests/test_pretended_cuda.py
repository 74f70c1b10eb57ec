"""What the pretended device refuses, and that it computes what the CPU does."""

import io
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch import nn
from torch.nn import functional as F

from tests.pretended_cuda import DeviceError, Stream, pretend_cuda
from tests.ready_processes import run


def trained(device, steps=4, autocast=False):
    """Losses and weights of a small network after some steps on `device`."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    first = next(network.parameters())
    network.to(device, memory_format=torch.channels_last)
    assert next(network.parameters()) is first  # as on a GPU: who holds a parameter holds it still
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, fused=True)
    images, targets = torch.randn(16, 3, 12, 12).to(device), torch.arange(16).to(device) % 4
    losses = []
    for _ in range(steps):
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
            output = network(images)
            losses.append(F.cross_entropy(output, targets, label_smoothing=0.1))
        assert output.dtype == (torch.bfloat16 if autocast else torch.float32)
        optimizer.zero_grad()
        losses[-1].backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return torch.stack([loss.detach() for loss in losses]).cpu(), {k: v.cpu() for k, v in network.state_dict().items()}


def test_a_network_trains_on_it_to_the_numbers_of_the_cpu(pretended_cuda):
    losses, weights = trained("cpu")
    losses_there, weights_there = trained("cuda")
    assert losses[-1] < losses[0]
    assert torch.equal(losses, losses_there)
    assert all(torch.equal(weights[name], weights_there[name]) for name in weights)


def test_autocast_computes_products_in_half_and_keeps_weights_and_losses_in_float(pretended_cuda):
    losses, weights = trained("cuda", autocast=True)
    exact, _ = trained("cpu")
    assert losses.dtype == torch.float32
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32, torch.int64}
    assert not torch.equal(losses, exact)
    torch.testing.assert_close(losses, exact, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "mix",
    [
        lambda ours, cpu: ours + cpu,
        lambda ours, cpu: ours @ cpu.T,
        lambda ours, cpu: torch.cat([ours, cpu]),
        lambda ours, cpu: cpu[ours > 0],
        lambda ours, cpu: ours.index_select(0, torch.tensor([0])),
        lambda ours, cpu: F.linear(cpu, ours),
        lambda ours, cpu: nn.Linear(3, 3)(ours),
        lambda ours, cpu: nn.BatchNorm1d(3).to("cuda")(cpu),
        lambda ours, cpu: torch.stack([ours[0, 0], cpu[0, 0]]),
        lambda ours, cpu: ours.add_(cpu),
    ],
)
def test_tensors_of_two_devices_do_not_meet(pretended_cuda, mix):
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        mix(torch.randn(3, 3, device="cuda"), torch.randn(3, 3))


def test_numbers_of_the_cpu_and_its_indices_may_meet_tensors_of_the_device(pretended_cuda):
    ours = torch.ones(3, 3, device="cuda")
    assert (ours * torch.tensor(2.0)).sum().item() == 18
    assert ours[torch.tensor([0, 1])].device == torch.device("cuda:0")
    ours.copy_(torch.zeros(3, 3))
    assert not ours.any()


def test_numpy_has_to_be_asked_of_the_cpu(pretended_cuda):
    ours = torch.ones(3, device="cuda")
    for ask in (ours.numpy, lambda: np.asarray(ours)):
        with pytest.raises(TypeError, match=r"can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu\(\)"):
            ask()
    assert ours.cpu().numpy().tolist() == ours.tolist() == [1, 1, 1]


def test_a_generator_of_the_cpu_draws_nothing_for_it(pretended_cuda):
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        torch.randn(3, device="cuda", generator=torch.Generator())
    generator = torch.Generator("cuda").manual_seed(3)
    assert generator.device == torch.device("cuda:0")
    drawn = torch.randn(3, device="cuda", generator=generator)
    assert torch.equal(drawn.cpu(), torch.randn(3, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(2, device="cuda"),
        lambda: torch.tensor([1.0, 2.0], device="cuda"),
        lambda: torch.as_tensor(np.zeros(2), device=torch.device("cuda")),
        lambda: torch.arange(2).cuda(),
        lambda: torch.arange(2, device="cuda").new_zeros(2),
        lambda: torch.zeros(2, device="cuda").new_tensor([1, 2]),
        lambda: torch.zeros_like(torch.zeros(2), device="cuda"),
        lambda: F.one_hot(torch.arange(2, device="cuda")),
        lambda: torch.func.vmap(lambda x: x + torch.ones(2, device=x.device))(torch.ones(2, 2, device="cuda")),
        lambda: ThreadPoolExecutor(1).submit(lambda: torch.zeros(2, device="cuda")).result(),
    ],
)
def test_what_is_made_for_it_lies_on_it(pretended_cuda, make):
    made = make()
    assert made.is_cuda
    assert made.device == torch.device("cuda:0")
    assert made.cpu().device.type == "cpu"


def test_there_is_one_device_only(pretended_cuda):
    assert torch.cuda.device_count() == 1
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(2, device="cuda:1")


def test_a_pickled_tensor_is_read_as_the_cpus(pretended_cuda, tmp_path):
    ours = torch.arange(3, device="cuda")
    assert pickle.loads(pickle.dumps(ours)).tolist() == [0, 1, 2]
    torch.save({"state": ours}, tmp_path / "state.pth")
    assert torch.load(tmp_path / "state.pth", map_location="cpu", weights_only=True)["state"].tolist() == [0, 1, 2]


def test_a_process_made_by_fork_cannot_use_it(pretended_cuda):
    torch.zeros(2, device="cuda")
    child = os.fork()
    if child == 0:
        try:
            torch.zeros(2, device="cuda")
        except RuntimeError as error:
            os._exit(0 if "Cannot re-initialize CUDA in forked subprocess" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_copy_that_was_not_waited_for_has_not_arrived(pretended_cuda):
    rows = torch.arange(3.0, device="cuda").to("cpu", non_blocking=True)
    assert rows.isnan().all()
    before = torch.cuda.Event()
    before.synchronize()
    assert rows.isnan().all()
    copied = torch.cuda.current_stream().record_event()
    copied.synchronize()
    assert rows.tolist() == [0, 1, 2]


def test_waiting_is_counted(pretended_cuda):
    ours = torch.arange(4.0, device="cuda")
    waited = pretended_cuda.synchronizations
    total = (ours * 2).sum()
    total.to("cpu", non_blocking=True)
    assert pretended_cuda.synchronizations == waited
    total.item(), ours.cpu(), ours[ours > 1], ours.nonzero(), bool(total)
    assert pretended_cuda.synchronizations == waited + 5


def test_a_stream_waits_for_what_another_writes(pretended_cuda):
    beside = torch.cuda.Stream()
    with torch.cuda.stream(beside):
        written = torch.zeros(4, device="cuda") + 1
    with pytest.raises(RuntimeError, match="a stream uses a tensor that another one may still be writing"):
        written.sum()
    torch.cuda.current_stream().wait_event(beside.record_event())
    assert written.sum().item() == 4


def test_memory_is_not_given_back_while_another_stream_uses_it():
    def use_beside(record):
        beside = torch.cuda.Stream()
        with torch.cuda.stream(beside):
            written = torch.zeros(4, device="cuda")
        torch.cuda.current_stream().wait_stream(beside)
        total = written.sum()
        if record:
            written.record_stream(torch.cuda.current_stream())
        return total

    with pretend_cuda() as device:
        total = use_beside(record=True)
        device.end_of_test()
        total = use_beside(record=False)
        assert total.item() == 0
        with pytest.raises(AssertionError, match="call record_stream"):
            device.end_of_test()


def recorded(function, *given):
    """Return a graph of a function, what it was recorded with and gives, and the stream that it was recorded on."""
    graph, beside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"):
        out = function(*given)
    return graph, out


def test_a_graph_computes_anew_what_was_recorded_where_its_memory_lies(pretended_cuda):
    weights, given = torch.randn(4, 4).cuda(), torch.zeros(2, 4, device="cuda")

    def function(x):
        product = x @ weights
        product.add_(1)
        return [
            product.relu(),
            torch.cat([product[:, :2].to(torch.float16), torch.ones_like(product, dtype=torch.half)], 1),
        ]

    graph, rows = recorded(function, given)
    for seed in range(3):
        images = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed))
        given.copy_(images)
        graph.replay()
        for row, expected in zip(rows, function(images.cuda()), strict=True):
            assert torch.equal(row.cpu(), expected.cpu())
    assert graph.replays == 3
    assert pretended_cuda.graphs == [graph]


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x[torch.tensor([0])],
        lambda x: x + torch.tensor([1.0, 2.0]).to(x.device),
        lambda x: torch.cuda.synchronize(),
    ],
)
def test_what_waits_cannot_be_recorded_and_leaves_the_thread_on_another_stream(pretended_cuda, waits):
    given, stream = torch.ones(2, device="cuda"), torch.cuda.current_stream()
    with torch.cuda.stream(stream):
        with pytest.raises(RuntimeError, match="CUDA error: operation failed due to a previous error during capture"):
            recorded(waits, given)
        assert torch.cuda.current_stream() is not stream  # as torch's own
    assert pretended_cuda.graphs == []
    assert all("a recording has failed" in fault for fault in pretended_cuda.faults)
    assert pretended_cuda.faults
    pretended_cuda.faults.clear()
    torch.cuda.synchronize()


def test_while_a_thread_records_no_other_may_wait_for_the_whole_device():
    given = torch.ones(2)
    with pretend_cuda() as device:
        images = given.cuda()
        with ThreadPoolExecutor(1) as other:

            def function(x):
                other.submit(torch.cuda.current_stream().synchronize).result()  # of one stream it may
                with pytest.raises(RuntimeError, match="operation not permitted when stream is capturing"):
                    other.submit(torch.cuda.synchronize).result()
                return x + 1

            def another(x):  # begins by waiting for all that the device has to do
                assert isinstance(other.submit(recorded, torch.neg, images).exception(), RuntimeError)
                return x + 1

            for what in (function, another):
                with pytest.raises(RuntimeError, match="failed due to a previous error during capture"):
                    recorded(what, images)
        device.faults.clear()


def test_a_graph_that_copies_from_the_memory_of_the_cpu_is_a_fault():
    with pretend_cuda() as device:
        given, numbers = torch.ones(2, device="cuda"), torch.ones(2).pin_memory()
        recorded(lambda x: x + numbers.to("cuda", non_blocking=True), given)
        with pytest.raises(AssertionError, match="copies from or to the CPU's memory"):
            device.end_of_test()


def test_memory_may_be_too_small_and_the_device_may_be_lost(pretended_cuda):
    pretended_cuda.largest_allocation = 1000
    torch.zeros(250, device="cuda")
    with pytest.raises(torch.cuda.OutOfMemoryError, match="CUDA out of memory"):
        torch.zeros(251, device="cuda")
    pretended_cuda.lost = True
    with pytest.raises(DeviceError, match="CUDA error"):
        torch.zeros(2, device="cuda")


def test_the_next_test_finds_the_memory_as_it_was_and_nothing_under_way(pretended_cuda):
    free, total = torch.cuda.mem_get_info()
    pretended_cuda.free, pretended_cuda.total = 1, 2
    under_way = torch.ones(2, device="cuda").to("cpu", non_blocking=True)
    pretended_cuda.end_of_test()
    assert torch.cuda.mem_get_info() == (free, total)
    stream = torch.cuda.current_stream()
    assert pretended_cuda.host[stream] == stream.clock[stream]
    assert under_way.tolist() == [1.0, 1.0]


def jpeg(mode="RGB", size=(40, 30), **settings):
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], len(mode)), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(), mode).save(file, "JPEG", **settings)
    return file.getvalue()


def test_images_are_decoded_as_nvjpeg_does_it(pretended_cuda):
    decode_jpeg = pytest.importorskip("torchcodec.decoders").decode_jpeg
    whole = jpeg(subsampling="4:4:4")
    there, cut = decode_jpeg([whole, whole[: len(whole) // 2]], device="cuda")
    assert there.device == torch.device("cuda:0")
    assert torch.equal(there.cpu(), decode_jpeg(whole))
    assert cut.shape == there.shape  # without an error
    with pytest.raises(RuntimeError):
        decode_jpeg(whole[: len(whole) // 2])
    for bad in (b"text", b"", jpeg("CMYK")):
        with pytest.raises((RuntimeError, ValueError), match=r"nvjpeg|buffer length"):
            decode_jpeg([whole, bad], device="cuda")


@pytest.mark.parametrize(("subsampling", "turned"), [("4:2:2", False), ("4:2:2", True), ("4:2:0", False)])
def test_where_a_file_has_fewer_colors_than_pixels_they_are_repeated(pretended_cuda, subsampling, turned):
    decode_jpeg = pytest.importorskip("torchcodec.decoders").decode_jpeg
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6 if turned else 1
    data = jpeg(subsampling=subsampling, exif=exif)
    (there,) = decode_jpeg([data], device="cuda")
    here = decode_jpeg(data)
    assert there.shape == here.shape
    _, *ours = Image.fromarray(there.cpu().permute(1, 2, 0).numpy()).convert("YCbCr").split()
    _, *theirs = Image.fromarray(here.permute(1, 2, 0).numpy()).convert("YCbCr").split()
    for color, blended in zip(ours, theirs, strict=True):
        pairs = np.asarray(color).astype(int)
        pairs = pairs.T if turned else pairs
        apart = np.abs(pairs[:, ::2] - pairs[:, 1::2])
        assert np.median(apart) <= 1
        assert np.abs(np.asarray(color).astype(int) - np.asarray(blended)).mean() > 3


def test_images_are_decoded_at_once_whatever_the_stream_still_has_to_do(pretended_cuda):
    decode_jpeg = pytest.importorskip("torchcodec.decoders").decode_jpeg
    torch.zeros(4, device="cuda").add_(1)
    torch.cuda.current_stream().synchronize()
    decode_jpeg([jpeg()], device="cuda")
    torch.cuda.synchronize()
    assert pretended_cuda.faults == []
    torch.zeros(4, device="cuda").add_(1)
    decode_jpeg([jpeg()], device="cuda")
    assert "memory that the stream may still be using" in pretended_cuda.faults.pop()


DRAWN = {
    "a factory": lambda device: torch.randn(40, device=device),
    "in place": lambda device: torch.zeros(40, device=device).uniform_(),
    "as another": lambda device: torch.rand_like(torch.zeros(40, device=device)),
    "dropout": lambda device: F.dropout(torch.ones(40, device=device), 0.5),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_random_numbers_are_the_devices_own(pretended_cuda, draw):
    torch.manual_seed(0)
    here = draw("cpu")
    torch.manual_seed(0)
    there = draw("cuda").cpu()
    assert not torch.equal(there, here)
    assert torch.equal(draw("cpu"), here)  # whatever was drawn there
    following = draw("cuda").cpu()
    assert not torch.equal(following, there)
    torch.manual_seed(0)
    for _ in range(2):
        with torch.random.fork_rng(devices=[0]):
            assert torch.equal(draw("cuda").cpu(), there)
            assert torch.equal(draw("cuda").cpu(), following)


def off_by(there, here):
    """Return by how much numbers differ at most, against the largest."""
    return ((there.cpu().double() - here).abs().max() / here.abs().max()).item()


def test_where_it_rounds_otherwise_sums_depend_on_how_many_there_are_and_on_nothing_else(pretended_cuda):
    pretended_cuda.rounds = True
    generator = torch.Generator().manual_seed(0)
    rows, factors = torch.randn(16, 100, generator=generator), torch.randn(100, 300, generator=generator)
    rows[9] = rows[2]
    exact = rows.double() @ factors.double()
    product = rows.cuda() @ factors.cuda()
    assert 0 < off_by(product, (rows @ factors).double()) < 1e-6
    assert torch.equal(product.cpu(), (rows.cuda() @ factors.cuda()).cpu())
    assert torch.equal(product[9].cpu(), product[2].cpu())
    assert not torch.equal((rows[:4].cuda() @ factors.cuda()).cpu(), product[:4].cpu())
    assert torch.equal(rows[:4].cuda().exp().cpu(), rows.cuda().exp()[:4].cpu())
    assert 0 < off_by(rows.cuda().exp(), rows.exp().double()) < 1e-6
    assert torch.equal((2 * rows + 1).cuda().relu().cpu(), (2 * rows + 1).relu())
    assert (rows > 0).float().cuda().sum() == (rows > 0).sum()
    halved = (rows.cuda().half() @ factors.cuda().half()).cpu()
    assert 0 < (halved != rows.half() @ factors.half()).float().mean() < 0.05
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert 1e-5 < off_by(rows.cuda() @ factors.cuda(), exact) < 1e-3
        short = rows.half(), factors.half()  # and all of TF32's
        assert off_by(short[0].float().cuda() @ short[1].float().cuda(), short[0].double() @ short[1].double()) < 1e-6
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def test_what_is_recorded_is_rounded_as_what_is_launched(pretended_cuda):
    pretended_cuda.rounds = True
    rows, graph = torch.rand(3, 5, device="cuda"), torch.cuda.CUDAGraph()
    launched = (rows @ rows.T).exp_().cpu()
    with torch.cuda.graph(graph):
        recorded = (rows @ rows.T).exp_()
    graph.replay()
    assert torch.equal(recorded.cpu(), launched)


def test_resizing_with_antialiasing_takes_no_bytes_there(pretended_cuda):
    bytes_there = torch.zeros(1, 3, 8, 8, dtype=torch.uint8, device="cuda")
    with pytest.raises(NotImplementedError, match="Byte"):
        F.interpolate(bytes_there, size=4, mode="bilinear", antialias=True)
    F.interpolate(bytes_there.float(), size=4, mode="bilinear", antialias=True)


@pytest.mark.parametrize(
    "product",
    [
        lambda x: x @ x,
        lambda x: x @ x[0],
        lambda x: x[0] @ x[0],
        lambda x: F.linear(x, x, x[0]),
        lambda x: x[None] @ x[None],
    ],
)
def test_integers_are_not_multiplied_there(pretended_cuda, product):
    whole = torch.ones(3, 3, dtype=torch.int64, device="cuda")
    with pytest.raises(NotImplementedError, match="not implemented for"):
        product(whole)
    product(whole.half())


def test_processes_that_tests_start_pretend_until_they_end(monkeypatch):
    monkeypatch.setenv("PRETEND_CUDA", "yes")
    code = "import gc, torch; gc.collect(); print(torch.cuda.is_available(), torch.ones(2, device='cuda').device)"
    assert run("-c", code, check=True).stdout == "True cuda:0\n"


@pytest.mark.parametrize("inference", [False, True])
def test_a_shape_changes_in_place(pretended_cuda, inference):
    with torch.inference_mode(inference):
        tensor = torch.arange(6.0, device="cuda").view(2, 3)
        assert tensor.unsqueeze_(0) is tensor
        assert tensor.shape == (1, 2, 3)
        assert (2 * tensor.squeeze_(0).t_()).tolist() == [[0.0, 6.0], [2.0, 8.0], [4.0, 10.0]]


class Halved(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        maps = self.convolution(x)
        return maps.view(-1, maps.size(1) // 2, 6, 6) + maps.view(-1, maps.size(1) // 2, 6, 6)


def test_a_trace_of_the_cpus_has_its_convolutions_and_numbers(pretended_cuda):
    network, images = Halved().eval(), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        traced = torch.jit.trace(network, torch.zeros(2, 3, 8, 8), check_trace=False)
        assert torch.equal(traced(images), network(images))
    assert "aten::_convolution" in str(traced.inlined_graph)  # which compares its constants, and shows them
    assert torch.ones(1, device="cuda").is_cuda  # as before


def test_nothing_is_pretended_afterwards(request):
    if hasattr(request.config, "pretending"):
        pytest.skip("all tests pretend")
    is_available, device = torch.cuda.is_available(), torch.Tensor.device
    with pretend_cuda():
        assert torch.cuda.is_available()
    assert torch.cuda.is_available() == is_available
    assert torch.Tensor.device is device


def test_a_real_device_has_begun_before_another_is_pretended(request, monkeypatch):
    """Or what makes tensors would never have it begin: it has asked the pretended one already."""
    if hasattr(request.config, "pretending"):
        pytest.skip("all tests pretend")
    begun = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: begun.append(torch.cuda.Stream is Stream))
    with pretend_cuda():
        assert begun == [False]
    assert begun == [False]


@pytest.mark.gpu
def test_a_real_device_refuses_the_same():
    ours, cpu = torch.randn(3, 3, device="cuda"), torch.randn(3, 3)
    for mix in (lambda: ours + cpu, lambda: ours @ cpu, lambda: torch.cat([ours, cpu])):
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            mix()
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        ours.numpy()
    with pytest.raises(NotImplementedError, match="Byte"):
        F.interpolate(
            torch.zeros(1, 3, 8, 8, dtype=torch.uint8, device="cuda"), size=4, mode="bilinear", antialias=True
        )
    with pytest.raises((NotImplementedError, RuntimeError), match="not implemented for 'Long'"):
        ours.long() @ ours.long()

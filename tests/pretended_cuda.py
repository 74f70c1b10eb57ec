"""A CUDA device on a machine without one: its tensors lie in the CPU's memory, and nothing may forget that they do not.

What is checked is what a GPU would refuse or do otherwise: tensors of two devices that meet, ``numpy()`` of a tensor of
the device, a generator of the other device, a second process made by fork, results read before their copy has arrived,
a stream that reads what another is still writing, memory freed while another stream uses it, memory that does not
suffice, nvJPEG's colors, and its silence about damaged files. What is computed is what the CPU computes, of random numbers of
its own, and where it `rounds` otherwise but for rounding. A CUDA graph
is recorded and replayed operator by operator, into the memory that it was recorded with; to wait in it is refused, and
to copy from the CPU's memory, which is another's by then, is a fault. ``torch.compile`` does not work here, and several
devices are one.

To C++ the tensors lie on torch's device ``lazy``, of which no kernel is loaded: a name that neither asks for a driver nor
is taken for the CPU's. Python is told ``cuda:0``.
"""

from __future__ import annotations

import functools
import io
import os
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only

CUDA = torch.device("cuda:0")
_LAZY = torch.device("lazy:0")
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
_MEMORY = 4 << 30, 16 << 30

DeviceError = torch.AcceleratorError
"""What torch raises where a device answers no more."""

aten = torch.ops.aten

_raw_device = torch.Tensor.device
_raw_is_cuda = torch.Tensor.is_cuda
_raw_to = torch.Tensor.to
_raw_numpy = torch.Tensor.numpy
_raw_tolist = torch.Tensor.tolist
_raw_data = torch.Tensor.data
_raw_trace = torch.jit.trace
_raw_generator = torch.Generator


class PretendedCuda:
    """The device, and what a test may want to know of it or do to it.

    Attributes
    ----------
    synchronizations : int
        How often the host has waited for the device, implicit waits included.
    largest_allocation : int or None
        A tensor of more bytes than these is refused as the memory would be: with ``torch.cuda.OutOfMemoryError``.
    free, total : int
        What ``torch.cuda.mem_get_info`` answers, in bytes.
    peak : int
        Bytes of the largest tensor there has been, since ``torch.cuda.reset_peak_memory_stats``.
    bf16 : bool
        Whether it computes in bfloat16 by itself, as cards from Ampere on do.
    lost : bool
        Whether it answers nothing any more.
    graphs : list of CUDAGraph
        That were recorded.
    recordings : list of CUDAGraph
        That threads record just now.
    faults : list of str
        What would have gone wrong on some other run only; raised when the pretending ends.
    generator : torch.Generator
        What random numbers are drawn from there, where nothing says so.
    rounds : bool
        Whether it rounds otherwise than the CPU, and sums of many images otherwise than those of few.
    """

    def __init__(self) -> None:
        self.synchronizations = 0
        self.largest_allocation: int | None = None
        self.free, self.total = _MEMORY
        self.peak = 0
        self.bf16 = True
        self.lost = False
        self.graphs: list[CUDAGraph] = []
        self.recordings: list[CUDAGraph] = []
        self.faults: list[str] = []
        self.generator = torch.Generator()
        self.rounds = False
        self.used = False
        self.forked = False
        self.lock = threading.RLock()
        self.host: dict[Stream, int] = {}
        self.streams: list[Stream] = []
        self.of_thread = threading.local()
        self.default = Stream()

    def check(self) -> None:
        """Refuse work as a lost device does, or one that another process has begun to use."""
        if self.forked:
            raise RuntimeError(
                "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the "
                "'spawn' start method"
            )
        if self.lost:
            raise DeviceError("CUDA error: unspecified launch failure")
        self.used = True

    def after_fork(self) -> None:
        """Remember in a child that its parent had used the device."""
        self.forked = self.used
        self.lock = threading.RLock()

    def end_of_test(self) -> None:
        """Raise for what was wrong though it went well this time, and be as new for the next test."""
        faults, self.faults = self.faults, []
        self.lost, self.largest_allocation, self.bf16, self.synchronizations = False, None, True, 0
        self.free, self.total, self.graphs = *_MEMORY, []
        with self.lock:
            for stream in self.streams:
                _merge(self.host, stream.clock)
                stream.deliver(stream.clock[stream])
        assert not faults, "Pretended CUDA: " + "; ".join(sorted(set(faults)))

    @property
    def current(self) -> Stream:
        """The stream of this thread."""
        return getattr(self.of_thread, "stream", self.default)

    @property
    def recording(self) -> CUDAGraph | None:
        """What this thread records just now."""
        return getattr(self.of_thread, "recording", None)

    def manual_seed(self, seed: int) -> None:
        """Begin to draw the numbers of a seed, which are others than the CPU's of the same."""
        self.generator.manual_seed((seed + 1) & 0x7FFF_FFFF_FFFF_FFFF)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Draw what the CPU would from the device's numbers within the block."""
        with self.lock:
            of_cpu = torch.default_generator.get_state()
            torch.default_generator.set_state(self.generator.get_state())
            try:
                yield
            finally:
                self.generator.set_state(torch.default_generator.get_state())
                torch.default_generator.set_state(of_cpu)

    def wait(self, clock: dict[Stream, int]) -> None:
        """Let the host wait for what was launched up to these times."""
        self.check()
        if self.recording is not None:
            self.recording.refuse()
        self.synchronizations += 1
        with self.lock:
            _merge(self.host, clock)
            for stream, time in clock.items():
                stream.deliver(time)


_device: PretendedCuda | None = None


def _remember_the_parents_use() -> None:
    if _device is not None:
        _device.after_fork()


os.register_at_fork(after_in_child=_remember_the_parents_use)


def _active() -> PretendedCuda:
    assert _device is not None, "a tensor of the pretended device is used after the pretending has ended"
    return _device


def _merge(clock: dict[Stream, int], other: dict[Stream, int]) -> None:
    for stream, time in other.items():
        clock[stream] = max(time, clock.get(stream, 0))


class Stream:
    """Stands for ``torch.cuda.Stream``; knows up to when it comes after each of the others."""

    def __init__(self, device: Any = None, priority: int = 0, **kwargs: Any) -> None:
        self.device, self.priority = CUDA, priority
        self.clock: dict[Stream, int] = {self: 0}
        self.copies: list[tuple[int, Tensor, Tensor]] = []
        if _device is not None:
            _device.streams.append(self)
        self.cuda_stream = self.stream_id = id(self)

    def tick(self) -> int:
        """Launch something; return when."""
        self.clock[self] += 1
        return self.clock[self]

    def deliver(self, time: int) -> None:
        """Let copies to the host that were launched up to a time arrive."""
        for launched, target, values in [*self.copies]:
            if launched <= time:
                target.copy_(values)
        self.copies = [copy for copy in self.copies if copy[0] > time]

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        with _active().lock:
            _merge(self.clock, event.clock)

    def wait_stream(self, stream: Stream) -> None:
        self.wait_event(stream.record_event())

    def synchronize(self) -> None:
        _active().wait(dict(self.clock))

    def query(self) -> bool:
        self.synchronize()
        return True

    def is_capturing(self) -> bool:
        return False

    def __enter__(self) -> Stream:
        self._before = getattr(self, "_before", [])
        self._before.append(_active().current)
        _active().of_thread.stream = self
        return self

    def __exit__(self, *error: object) -> None:
        _active().of_thread.stream = self._before.pop()


class _StreamContext:
    """Stands for ``torch.cuda.StreamContext``, of which each knows what was before it."""

    def __init__(self, stream: Stream | None) -> None:
        self._stream = stream

    def __enter__(self) -> None:
        device = _active()
        self._before = device.current
        device.of_thread.stream = self._stream or self._before

    def __exit__(self, *error: object) -> None:
        _active().of_thread.stream = self._before


class Event:
    """Stands for ``torch.cuda.Event``."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, **kwargs: Any) -> None:
        self.clock: dict[Stream, int] = {}

    def record(self, stream: Stream | None = None) -> None:
        self.clock = dict((stream or _active().current).clock)

    def wait(self, stream: Stream | None = None) -> None:
        (stream or _active().current).wait_event(self)

    def synchronize(self) -> None:
        _active().wait(self.clock)

    def query(self) -> bool:
        self.synchronize()
        return True

    def elapsed_time(self, end: Event) -> float:
        return 1.0


class CUDAGraph:
    """Stands for ``torch.cuda.CUDAGraph``: what a thread launches while it is recorded, done again when it is replayed.

    Attributes
    ----------
    replays : int
        How often it was.
    """

    def __init__(self, keep_graph: bool = False) -> None:
        self.replays = 0
        self._launches: list[Callable[[], None]] = []
        self._is_valid = True

    def capture_begin(self, *pool: Any, capture_error_mode: str = "global", **kwargs: Any) -> None:
        device = _active()
        device.recordings.append(self)
        device.of_thread.recording = self

    def capture_end(self) -> None:
        device = _active()
        device.recordings.remove(self)
        device.of_thread.recording = None
        if not self._is_valid:
            device.faults.append(
                "a recording has failed, after which torch before 2.12 gives no memory back that another stream than its "
                "own has used: record nothing that waits"
            )
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        device.graphs.append(self)

    def refuse(self) -> None:
        """Refuse what cannot be recorded, after which nothing is."""
        self._is_valid = False
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    def record(self, again: Callable[[], Any], out: Any, used: list[tuple[_Memory, bool]]) -> None:
        """Take an operator: what does it again, the tensors that it gave, the memory it used and whether it wrote."""
        given = _tensors_in([out])

        def launch() -> None:
            device = _active()
            with device.lock:
                stream = device.current
                time = stream.tick()
                for memory, writes in used:
                    memory.use(stream, time, writes)
            for tensor, anew in zip(given, _tensors_in([again()]), strict=True):
                if anew is not tensor:
                    tensor.copy_(anew)

        self._launches.append(launch)

    def replay(self) -> None:
        _active().check()
        self.replays += 1
        for launch in self._launches:
            launch()

    def reset(self) -> None:
        self._launches = []


class _Recording:
    """Stands for ``torch.cuda.graph``, which stays on its stream where recording has failed."""

    def __init__(self, graph: CUDAGraph, pool: Any = None, stream: Any = None, **kwargs: Any) -> None:
        self._graph, self._on_stream, self._kwargs = graph, _StreamContext(stream or Stream()), kwargs

    def __enter__(self) -> None:
        torch.cuda.synchronize()
        self._on_stream.__enter__()
        self._graph.capture_begin(**self._kwargs)

    def __exit__(self, *error: object) -> None:
        self._graph.capture_end()
        self._on_stream.__exit__()


class _Memory:
    """Of the tensors that share some memory: who wrote it last and who has used it."""

    __slots__ = ("device", "of_graph", "owner", "recorded", "used", "written")

    def __init__(self, owner: Stream) -> None:
        self.owner = owner
        self.device = _active()
        self.of_graph = self.device.recording is not None  # which keeps it for itself
        self.written: tuple[Stream, int] = (owner, 0 if self.of_graph else owner.clock[owner])
        self.used: dict[Stream, int] = {}
        self.recorded: set[Stream] = set()

    def use(self, stream: Stream, time: int, writes: bool) -> None:
        device = _active()
        if device.recording is not None:
            return  # nothing is done as yet
        writer, written = self.written
        if writer is not stream and max(stream.clock.get(writer, 0), device.host.get(writer, 0)) < written:
            raise RuntimeError(
                "Pretended CUDA: a stream uses a tensor that another one may still be writing; let it wait for an event"
            )
        if writes:
            self.written = (stream, time)
        if stream is not self.owner:
            self.used[stream] = time

    def __del__(self) -> None:
        device = self.device
        if device is not _device or self.of_graph:
            return  # the collector may come later than the next test
        for stream, time in self.used.items():
            waited = max(self.owner.clock.get(stream, 0), device.host.get(stream, 0))
            if stream not in self.recorded and waited < time:
                device.faults.append(
                    "the memory of a tensor was given back while a stream other than its own used it; call "
                    "record_stream, or let its own stream wait"
                )


class DeviceTensor(torch.Tensor):
    """A tensor of the pretended device."""

    _inner: Tensor
    _memory: _Memory

    @staticmethod
    def __new__(cls, inner: Tensor, memory: _Memory | None = None) -> DeviceTensor:
        device = _active()
        size = inner.untyped_storage().nbytes()
        if memory is None:
            if device.largest_allocation is not None and size > device.largest_allocation:
                raise torch.cuda.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB.")
            device.peak = max(device.peak, size)
        # a view of a tensor from before inference mode is none of those that are made in it
        leaves = torch.is_inference_mode_enabled() and not inner.is_inference()
        with torch.inference_mode(False) if leaves else nullcontext():
            tensor = torch.Tensor._make_wrapper_subclass(
                cls,
                inner.size(),
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                layout=inner.layout,
                device=_LAZY,
                requires_grad=False,
                _extra_dispatch_keys=_AUTOCAST,
            )
        tensor._inner = inner
        tensor._memory = memory or _Memory(device.current)
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _is_composite(func):  # in inference mode nobody has taken it apart
            return func.decompose(*args, **kwargs or {})
        return _launch(func, args, kwargs or {})

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["_inner"], None  # makes torch swap a module's parameter for one of the device, the object staying

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], context: None, size: Any, stride: Any) -> DeviceTensor:
        return DeviceTensor(inner["_inner"])

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().cpu().__reduce_ex__(protocol)  # is read as the CPU's, whatever `map_location` says

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied = self.detach().clone().requires_grad_(self.requires_grad)
            copied.__dict__.update({k: v for k, v in self.__dict__.items() if k not in ("_inner", "_memory")})
            memo[id(self)] = copied
        return memo[id(self)]

    def __repr__(self, **kwargs: Any) -> str:
        return f"{self._inner!r} on {CUDA}"

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, values: Tensor) -> None:
        if not isinstance(values, DeviceTensor):
            raise TypeError("Pretended CUDA: `data` of a tensor of the device cannot become the CPU's")
        _raw_data.__set__(self, values)
        self._inner, self._memory = values._inner, values._memory

    def record_stream(self, stream: Stream) -> None:
        self._memory.recorded.add(stream)

    def pin_memory(self, device: Any = None) -> Tensor:
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")

    def is_pinned(self, device: Any = None) -> bool:
        return False


_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal"}
_TAKES_CPU_INDICES = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}
_TAKES_NO_CPU_SCALARS = {"cat", "stack", "index_select", "gather", "scatter", "embedding"}
_NOT_DETERMINISTIC = {"_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "grid_sampler_2d_backward"}
_NOT_DETERMINISTIC |= {
    "upsample_bilinear2d_backward",
    "upsample_bicubic2d_backward",
    "reflection_pad2d_backward",
    "histc",
}
_NOT_OF_INTEGERS = {"mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot"}
_NOT_OF_BYTES = {"_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"}


@functools.cache
def _is_composite(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _is_ours(device: Any) -> bool:
    return device is not None and torch.device(device).type in ("cuda", "lazy")


def _launch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do on the CPU what the device is asked for, if the device could."""
    device = _active()
    device.check()
    name = func.overloadpacket.__name__
    asked = kwargs.get("device")
    if asked is not None and _is_ours(asked) and (torch.device(asked).index or 0) > 0:
        raise RuntimeError("CUDA error: invalid device ordinal")
    tensors = [*_tensors_in(args), *_tensors_in(kwargs.values())]
    ours = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
    if name == "copy_" or name == "_to_copy":
        return _copy(name, func, args, kwargs, ours)
    _check_devices(name, args, tensors, ours)
    _check_generator(kwargs)
    if name in _NOT_OF_BYTES and ours[0].dtype == torch.uint8:
        raise NotImplementedError(f"\"{name}_out_frame\" not implemented for 'Byte'")
    if name in _NOT_OF_INTEGERS and not ours[0].is_floating_point():
        raise NotImplementedError(f"\"{name}_cuda\" not implemented for '{ours[0].dtype}'")
    if name in _NOT_DETERMINISTIC and torch.are_deterministic_algorithms_enabled():
        raise RuntimeError(
            f"{name}_cuda does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation, or you can "
            "use the 'warn_only=True' option, if that's acceptable for your application."
        )
    if name == "_fused_sdp_choice":
        return 0  # the one that is made of plain operations

    is_view, places = _aliases(func)
    written = [tensor for place in places for tensor in _tensors_in([_argument(place, args, kwargs)])]
    with device.lock:
        stream = device.current
        time = stream.tick()
        if not is_view:
            for tensor in ours:
                tensor._memory.use(stream, time, any(tensor is other for other in written))
    if name in _WAITS or (name in _TAKES_CPU_INDICES and _has_mask(args)):
        device.wait(dict(stream.clock))
    recording = device.recording
    if recording is not None and any(tensor.dim() > 0 for tensor in tensors if not isinstance(tensor, DeviceTensor)):
        recording.refuse()  # an index of the CPU's is copied, and waited for
    inner_args = _unwrapped(args)
    inner_kwargs = {key: _unwrapped(value) for key, value in kwargs.items()}
    inner_kwargs.pop("pin_memory", None)
    if asked is not None:
        inner_kwargs["device"] = torch.device("cpu") if _is_ours(asked) else asked
    is_there = _is_ours(asked) if asked is not None else bool(ours)
    draws = is_there and torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None
    compute = functools.partial(func, *inner_args, **inner_kwargs)
    if is_there and device.rounds and name.rstrip("_") in _ROUNDED:
        compute = _rounding_otherwise(name.rstrip("_"), func, inner_args, inner_kwargs)
    with device.drawing() if draws else nullcontext():
        out = compute()
    for tensor in written:
        if isinstance(tensor, DeviceTensor) and tensor._inner.shape != tensor.shape:  # such as unsqueeze_
            _raw_data.__set__(tensor, DeviceTensor(tensor._inner, tensor._memory))
    if not is_there:
        return out  # such as zeros_like(x, device="cpu")
    known = {id(tensor._inner): tensor for tensor in ours}
    shared = ours[0]._memory if is_view else None

    def wrap(tensor: Tensor) -> Tensor:
        return known[id(tensor)] if id(tensor) in known else DeviceTensor(tensor, shared)

    with device.lock:
        wrapped = wrap(out) if isinstance(out, Tensor) else tree_map_only(Tensor, wrap, out)
    if recording is not None and not is_view:
        used = [(tensor._memory, any(tensor is other for other in written)) for tensor in ours]
        used += [(tensor._memory, True) for tensor in _tensors_in([wrapped])]
        recording.record(compute, out, used)
    return wrapped


# ---------------------------------------------------------------------------------------------------------------------
# Rounding

_PRODUCTS = (
    "convolution convolution_backward mm addmm bmm baddbmm mv addmv dot addr sum mean var std var_mean std_mean cumsum "
    "linalg_vector_norm native_layer_norm native_layer_norm_backward native_group_norm native_batch_norm "
    "native_batch_norm_backward _native_batch_norm_legit logsumexp _cdist_forward _euclidean_dist _linalg_eigh"
)
"""Sums, whose order a GPU chooses by how large all is."""

_FUNCTIONS = (
    "exp log log2 log10 log1p expm1 sigmoid tanh gelu silu erf rsqrt pow softplus log_sigmoid_forward _softmax "
    "_log_softmax grid_sampler_2d upsample_bilinear2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
    "_adaptive_avg_pool2d avg_pool2d _native_batch_norm_legit_no_training"
)
"""What a GPU computes of each image by itself, and not to the last bit as a CPU does."""

_OF_ALL = frozenset(_PRODUCTS.split())
_ROUNDED = _OF_ALL.union(_FUNCTIONS.split())

_FACTORS = {
    **dict.fromkeys(("mm", "bmm", "convolution"), (0, 1)),
    **dict.fromkeys(("addmm", "baddbmm"), (1, 2)),
    "convolution_backward": (0, 1, 2),
}
"""Which arguments are multiplied, in TF32 if they may be."""

_UNIT = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}

_EXACT = {torch.float64: 256, torch.float32: 256, torch.bfloat16: 1, torch.float16: 1}
"""Times which a number is whole where it is taken for one that is not rounded: a sum of whole numbers, say."""


def _rounding_otherwise(name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Callable[[], Any]:
    """Return what computes an operator, some of its numbers the next ones: for all images the same of each."""
    in_tf32 = name in _FACTORS and (
        torch.backends.cudnn.allow_tf32 if name.startswith("conv") else torch.backends.cuda.matmul.allow_tf32
    )

    def compute() -> Any:
        given = [_of_tf32(arg) if in_tf32 and place in _FACTORS[name] else arg for place, arg in enumerate(args)]
        out = func(*given, **kwargs)
        tensors = [tensor for tensor in _tensors_in([out]) if tensor.dtype in _UNIT and tensor.numel()]
        if name == "_linalg_eigh" and len(tensors) == 2:
            tensors[1].mul_(_pattern(name, tensors[1].shape[-1:]).sign())  # vectors are as good the other way round
        for tensor in tensors:
            pattern = _pattern((name, tensor.shape if name in _OF_ALL else tensor.shape[1:]), tensor.shape[1:])
            if tensor.dtype in (torch.bfloat16, torch.float16):  # rounded once, after sums in float32
                pattern = pattern.sign() * (pattern.abs() > 2.5)
            changed = tensor * (1 + _UNIT[tensor.dtype] * pattern.to(torch.promote_types(tensor.dtype, torch.float32)))
            whole = tensor * _EXACT[tensor.dtype]
            tensor.copy_(torch.where(whole == whole.round(), tensor, changed.to(tensor.dtype)))
        return out

    return compute


def _of_tf32(factor: Any) -> Any:
    """Return a tensor of float32 in the 10 bits of TF32, others as they are."""
    if not isinstance(factor, Tensor) or factor.dtype != torch.float32:
        return factor
    return (factor.view(torch.int32) + 0x1000 & ~0x1FFF).view(torch.float32)


@functools.lru_cache(64)
def _pattern(seed: Any, shape: torch.Size) -> Tensor:
    """Return normal numbers of this shape, the same ones for the same seed."""
    with _disable_current_modes():
        generator = _raw_generator().manual_seed(zlib.crc32(repr(seed).encode()))
        return torch.empty(shape, dtype=torch.float32, device="cpu").normal_(generator=generator)


# ---------------------------------------------------------------------------------------------------------------------


@functools.cache
def _aliases(func: Any) -> tuple[bool, list[tuple[int, str]]]:
    """Return whether an operator gives a view, and the places and names of the arguments that it changes."""
    schema = func._schema
    is_view = any(out.alias_info is not None and not out.alias_info.is_write for out in schema.returns)
    changed = [
        (place, argument.name)
        for place, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return is_view, changed


def _argument(place: tuple[int, str], args: Any, kwargs: dict[str, Any]) -> Any:
    return args[place[0]] if place[0] < len(args) else kwargs.get(place[1])


def _tensors_in(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors_in(value)
    return found


def _unwrapped(value: Any) -> Any:
    if isinstance(value, DeviceTensor):
        return value._inner
    return type(value)(map(_unwrapped, value)) if type(value) in (list, tuple) else value


def _check_devices(name: str, args: Any, tensors: list[Tensor], ours: list[DeviceTensor]) -> None:
    others = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor)]
    if not ours or not others:
        return
    if name in _TAKES_CPU_INDICES and isinstance(args[0], DeviceTensor):
        indices = _tensors_in(args[1])
        others = [tensor for tensor in others if not any(tensor is index for index in indices)]
    others = [tensor for tensor in others if tensor.dim() > 0 or name in _TAKES_NO_CPU_SCALARS]
    if others:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
            f"{others[0].device}! (in {name})"
        )


def _check_generator(kwargs: dict[str, Any]) -> None:
    generator = kwargs.get("generator")
    if generator is not None and generator._cdata not in _generators:
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")


def _has_mask(args: Any) -> bool:
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _copy(name: str, func: Any, args: Any, kwargs: dict[str, Any], ours: list[DeviceTensor]) -> Any:
    """Copy within the device, to it or from it; what comes from it arrives when somebody has waited, if asked so."""
    device = _active()
    source = args[1] if name == "copy_" else args[0]
    asked = kwargs.get("device")
    if name == "copy_":
        target_is_ours = isinstance(args[0], DeviceTensor)
        blocks = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    else:
        target_is_ours = _is_ours(asked) if asked is not None else bool(ours)
        blocks = not kwargs.get("non_blocking", False)
    with device.lock:
        stream = device.current
        time = stream.tick()
        for tensor in ours:
            tensor._memory.use(stream, time, name == "copy_" and tensor is args[0])
    crosses = isinstance(source, DeviceTensor) != target_is_ours
    if crosses and blocks:
        device.wait(dict(stream.clock))
    recording = device.recording
    if crosses and recording is not None:
        device.faults.append("a CUDA graph copies from or to the CPU's memory, which is another's when it is replayed")
    values = source._inner if isinstance(source, DeviceTensor) else source
    options = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory", "non_blocking")}
    if name == "copy_":
        target = args[0]
        inner = target._inner if target_is_ours else target
        if crosses and not blocks and not target_is_ours:
            _arrive_later(stream, time, inner, values.to(inner.dtype).clone())
        else:
            inner.copy_(values)
            if recording is not None:
                used = [(tensor._memory, tensor is target) for tensor in ours]
                recording.record(functools.partial(inner.copy_, values), inner, used)
        return target
    copied = func(values, **options)
    if target_is_ours:
        moved = DeviceTensor(copied)
        if recording is not None:
            used = [*((tensor._memory, False) for tensor in ours), (moved._memory, True)]
            recording.record(functools.partial(func, values, **options), copied, used)
        return moved
    if crosses and not blocks:
        later = copied.clone()
        _arrive_later(stream, time, copied, later)
    return copied


def _arrive_later(stream: Stream, time: int, target: Tensor, values: Tensor) -> None:
    """Leave what nobody may read in a tensor of the host until its copy is waited for."""
    target.fill_(float("nan") if target.dtype.is_floating_point else 1)
    with _active().lock:
        stream.copies.append((time, target, values))


class _Factories(TorchDispatchMode):
    """Sends to the device what asks for it by ``device=`` alone."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to see to it takes most of the time of an operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        devices = [value for value in (*args, kwargs.get("device")) if isinstance(value, torch.device)]
        if DeviceTensor in types or any(map(_is_ours, devices)):
            if _is_composite(func):
                with self:
                    return func.decompose(*args, **kwargs)
            return _launch(func, args, kwargs)
        if kwargs.get("pin_memory"):
            tensor = func(*args, **{**kwargs, "pin_memory": False})
            tensor.pretended_pinned = True
            return tensor
        if args and isinstance(args[0], (int, float)):
            args = _with_constants_of_a_trace(func, args)
        return func(*args, **kwargs)


def _with_constants_of_a_trace(func: Any, args: Any) -> Any:
    """Return arguments in which numbers that a trace holds as tensors are tensors again; Python is shown the numbers."""
    return tuple(
        torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
        if isinstance(value, (int, float)) and str(argument.type) == "Tensor"
        else value
        for value, argument in zip(args, func._schema.arguments, strict=False)
    )


# ---------------------------------------------------------------------------------------------------------------------
# torch.autocast("cuda"): operators and what they compute in, by the list in torch's documentation ("CUDA Op-Specific
# Behavior"); those this project does not use are left out.

_IN_HALF = (
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d.input conv_transpose3d.input convolution linear matmul mm mv "
    "addmm addmv addr bmm baddbmm addbmm prelu scaled_dot_product_attention"
)
_IN_FLOAT = (
    "softmax.int log_softmax.int cumsum cumprod sum sum.dim_IntList prod exp expm1 log log2 log10 log1p pow.Tensor_Scalar "
    "pow.Tensor_Tensor pow.Scalar rsqrt reciprocal norm.Scalar norm.ScalarOpt_dim linalg_vector_norm layer_norm group_norm "
    "nll_loss nll_loss_nd mse_loss l1_loss smooth_l1_loss huber_loss kl_div cosine_similarity "
    "binary_cross_entropy_with_logits softplus dist cdist erfinv"
)
_IN_WIDEST = "cat stack addcdiv addcmul dot grid_sampler index_put scatter_add bilinear"


def _autocasting(operator: str, kind: str) -> Callable[..., Any]:
    packet, _, overload = operator.partition(".")
    call = getattr(getattr(aten, packet), overload or "default")

    def cast(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            if not torch.is_autocast_enabled("cuda"):
                return call(*args, **kwargs)
            floats: list[torch.dtype] = []
            tree_map_only(Tensor, lambda t: floats.append(t.dtype) if t.is_floating_point() else None, (args, kwargs))
            if kind == "half":
                to = torch.get_autocast_dtype("cuda")
            else:
                to = torch.float32 if kind == "float" or torch.float32 in floats else floats[0]

            def one(tensor: Tensor) -> Tensor:
                fits = isinstance(tensor, DeviceTensor) and tensor.is_floating_point()
                return tensor.to(to) if fits and tensor.dtype != torch.float64 else tensor

            args, kwargs = tree_map_only(Tensor, one, (args, kwargs))
            return call(*args, **kwargs)

    return cast


_libraries: list[torch.library.Library] = []


def _register_autocast() -> None:
    """Once a process: no other tensor has the key."""
    if _libraries:
        return
    fallback = torch.library.Library("_", "IMPL")
    fallback.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    library = torch.library.Library("aten", "IMPL")
    _libraries.extend([fallback, library])
    for kind, operators in (("half", _IN_HALF), ("float", _IN_FLOAT), ("widest", _IN_WIDEST)):
        for operator in operators.split():
            library.impl(operator, _autocasting(operator, kind), "AutocastPrivateUse1")


# ---------------------------------------------------------------------------------------------------------------------
# nvJPEG


def decode_jpegs_as_nvjpeg(sources: list[Tensor], mode: int, _device: Any) -> list[Tensor]:
    """Decode as nvJPEG does: damaged data without an error, other colors where a file has fewer of them than pixels, and
    one file that is none fails the whole call.

    And at once, whatever its stream still has to do, as the engines of an H100 do it (TorchCodec before 0.17).
    """
    from torchcodec.decoders import ImageReadMode

    device, stream = _active(), _active().current
    if device.recordings:
        device.faults.append(
            "images are decoded while a graph is recorded: what nvJPEG does to the whole device may end the recording"
        )
    if device.host.get(stream, 0) < stream.clock[stream]:
        device.faults.append(
            "images are decoded into memory that the stream may still be using: wait for it, as nvJPEG does not"
        )
    images = [_decode_silently(source.numpy().tobytes()) for source in sources]
    if ImageReadMode(mode) is not ImageReadMode.RGB:
        raise NotImplementedError("Pretended CUDA: images are decoded to RGB only")
    try:
        return [image.to("cuda") for image in images]
    except torch.OutOfMemoryError as error:  # of which TorchCodec for torch 2.11 says this
        raise RuntimeError(
            'torch_call_dispatcher( "aten::empty", "memory_format", stack.data(), TORCH_ABI_VERSION) API call failed at '
            "torch/csrc/stable/ops.h, line 631"
        ) from error


_ON_THEIR_SIDES = (5, 6, 7, 8)
"""What EXIF says of images that are turned by a quarter."""


def _decode_silently(data: bytes) -> Tensor:
    from torchcodec.decoders import decode_jpeg

    try:
        # With an end-of-image marker behind it libjpeg takes what is missing for damage, and goes on with a warning.
        opened = Image.open(io.BytesIO(data + b"\xff\xd9"), formats=["JPEG"])
        if opened.mode == "CMYK":
            raise RuntimeError("nvjpegDecodeBatched failed: CMYK")
        layers = opened.layer
        turned = opened.getexif().get(ExifTags.Base.Orientation) in _ON_THEIR_SIDES
        try:
            whole = Image.fromarray(_raw_numpy(decode_jpeg(data).permute(1, 2, 0).contiguous()))
        except RuntimeError:
            whole = ImageOps.exif_transpose(opened.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise RuntimeError("nvjpegJpegStreamParse failed: 2") from error
    if len(layers) == 3 and layers[0][1:3] != (1, 1):
        horizontal, vertical = layers[0][1:3]
        whole = _with_blocks_of_color(whole, *((vertical, horizontal) if turned else (horizontal, vertical)))
    return torch.frombuffer(bytearray(whole.tobytes()), dtype=torch.uint8).view(*whole.size[::-1], 3).permute(2, 0, 1)


def _with_blocks_of_color(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return an image with one color for so many pixels, about that which its file has for them.

    libjpeg puts others between those, nvJPEG repeats them (unless told otherwise).
    """
    light, *colors = image.convert("YCbCr").split()
    fewer = [-(-side // times) for side, times in zip(image.size, (width, height), strict=True)]
    blocks = [
        color.resize(fewer, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST) for color in colors
    ]
    return Image.merge("YCbCr", [light, *blocks]).convert("RGB")


# ---------------------------------------------------------------------------------------------------------------------
# torch.cuda


_generators: weakref.WeakValueDictionary[int, torch.Generator] = weakref.WeakValueDictionary()


class _GeneratorOfAnyDevice(torch.Generator):
    """``torch.Generator``, of which one of the device is one of the CPU that says so."""

    def __new__(cls, device: Any = "cpu") -> torch.Generator:
        generator = super().__new__(cls, "cpu" if _is_ours(device) else device)
        if _is_ours(device):
            _generators[generator._cdata] = generator
        return generator

    def __init__(self, device: Any = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:
        return CUDA if self._cdata in _generators else torch.device("cpu")


def _to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    def translated(value: Any) -> Any:
        is_device = isinstance(value, torch.device) or (isinstance(value, str) and value.startswith("cuda"))
        if is_device and torch.device(value).type == "cuda":
            if (torch.device(value).index or 0) > 0:
                raise RuntimeError("CUDA error: invalid device ordinal")
            return _LAZY
        return value

    return _raw_to(self, *map(translated, args), **{key: translated(value) for key, value in kwargs.items()})


def _made_on_the_cpu(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function that makes a tensor of Python's numbers or numpy's there, and copies it."""

    def make_and_copy(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if not _is_ours(device):
            return make(*args, **({} if device is None else {"device": device}), **kwargs)
        requires_grad = kwargs.pop("requires_grad", False)
        on_device = make(*args, **kwargs).to(device)
        return on_device.requires_grad_() if requires_grad else on_device

    return make_and_copy


def _trace(*args: Any, **kwargs: Any) -> Any:
    """Trace what the CPU computes as if nobody watched its operators, or a convolution becomes a constant."""
    with _disable_current_modes():
        return _raw_trace(*args, **kwargs)


def _numpy(self: Tensor, *, force: bool = False) -> Any:
    if isinstance(self, DeviceTensor):
        if force:
            return _raw_numpy(self.detach().cpu())
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
        )
    return _raw_numpy(self, force=force)


def _device_of(self: Tensor) -> torch.device:
    device = _raw_device.__get__(self)
    return CUDA if device.type == "lazy" else device


def _pin(self: Tensor, device: Any = None) -> Tensor:
    pinned = self.detach().clone(memory_format=torch.preserve_format)
    pinned.pretended_pinned = True
    return pinned


class _Properties:
    name = "Pretended GPU"
    major, minor = 9, 0
    multi_processor_count = 132

    def __init__(self, device: PretendedCuda) -> None:
        self.total_memory = device.total


def _stand_ins(device: PretendedCuda) -> dict[str, Any]:
    """Return what is put into ``torch.cuda``."""

    def synchronize(_device: Any = None) -> None:
        for recording in device.recordings:  # of any thread: a device that records cannot be waited for
            recording.refuse()
        clock: dict[Stream, int] = {}
        for stream in device.streams:
            _merge(clock, stream.clock)
        device.wait(clock)

    def set_stream(stream: Stream) -> None:
        device.of_thread.stream = stream

    return {
        "_lazy_init": device.check,
        "init": device.check,
        "is_initialized": lambda: device.used,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _device: None,
        "device": lambda _device: nullcontext(),
        "get_device_name": lambda _device=None: _Properties.name,
        "get_device_properties": lambda _device=None: _Properties(device),
        "get_device_capability": lambda _device=None: (9, 0) if device.bf16 else (7, 0),
        "is_bf16_supported": lambda including_emulation=True: device.bf16 or including_emulation,
        "mem_get_info": lambda _device=None: (device.free, device.total),
        "memory_allocated": lambda _device=None: device.peak,
        "max_memory_allocated": lambda _device=None: device.peak,
        "memory_reserved": lambda _device=None: device.peak,
        "max_memory_reserved": lambda _device=None: device.peak,
        "reset_peak_memory_stats": lambda _device=None: setattr(device, "peak", 0),
        "empty_cache": lambda: None,
        "synchronize": synchronize,
        "Stream": Stream,
        "Event": Event,
        "current_stream": lambda _device=None: device.current,
        "default_stream": lambda _device=None: device.default,
        "stream": _StreamContext,
        "set_stream": set_stream,
        "is_current_stream_capturing": lambda: device.recording is not None,
        "CUDAGraph": CUDAGraph,
        "graph": _Recording,
        "manual_seed": device.manual_seed,
        "manual_seed_all": device.manual_seed,
        "get_rng_state": lambda _device=None: device.generator.get_state(),
        "set_rng_state": lambda state, _device=None: device.generator.set_state(state),
    }


def _in_this_thread() -> TorchDispatchMode:
    torch.set_autocast_enabled("privateuseone", True)
    return _Factories()


@contextmanager
def pretend_cuda(*, rounds: bool = False) -> Iterator[PretendedCuda]:
    """Let torch believe in a CUDA device within the block, in this thread and those that are begun in it.

    Where it does already, the device may round otherwise than it did.
    """
    global _device
    if _device is not None:
        before, _device.rounds = _device.rounds, rounds
        try:
            yield _device
        finally:
            _device.rounds = before
        return
    if torch.cuda.is_available():
        torch.cuda.init()  # which torch asks for once in a process, by `_lazy_init`: not of the pretended device alone
    _device_constructors()  # of which torch makes a list once: of its own functions, not of what stands in for them
    _register_autocast()
    bootstrap = threading.Thread._bootstrap_inner

    def with_factories(self: threading.Thread) -> None:
        with _in_this_thread():
            bootstrap(self)

    accelerator = {
        "is_available": lambda: True,
        "current_accelerator": lambda check_available=False: torch.device("cuda"),
        "device_count": lambda: 1,
        "current_device_index": lambda: 0,
        "set_device_index": lambda _device: None,
        "current_stream": lambda _device=None: pretended.current,
        "synchronize": lambda _device=None: torch.cuda.synchronize(),
        "empty_cache": lambda: None,
    }
    tensor = {
        "device": property(_device_of),
        "is_cuda": property(lambda self: _raw_device.__get__(self).type == "lazy"),
        "to": _to,
        "cuda": lambda self, device=None, non_blocking=False, **_: self.to(device or "cuda", non_blocking=non_blocking),
        "numpy": _numpy,
        "tolist": lambda self: _raw_tolist(self.detach().cpu() if isinstance(self, DeviceTensor) else self),
        "pin_memory": _pin,
        "is_pinned": lambda self, device=None: getattr(self, "pretended_pinned", False),
        "record_stream": lambda self, stream: None,
    }
    _device = pretended = PretendedCuda()
    pretended.rounds = rounds
    pretended.streams.append(pretended.default)
    patches = [mock.patch.object(threading.Thread, "_bootstrap_inner", with_factories)]
    patches += [mock.patch.object(torch.cuda, name, value) for name, value in _stand_ins(pretended).items()]
    patches += [mock.patch.object(torch.accelerator, name, value) for name, value in accelerator.items()]
    patches += [mock.patch.object(torch.Tensor, name, value) for name, value in tensor.items()]
    patches += [mock.patch.object(torch.jit, "trace", _trace)]
    patches += [mock.patch.object(torch, "Generator", _GeneratorOfAnyDevice)]
    patches += [mock.patch.object(torch.distributed, "is_nccl_available", return_value=False)]
    # views of wrapped tensors are none of those that inference mode makes; without gradients is all that it means here
    patches += [mock.patch.object(torch._C, "_InferenceMode", lambda mode: torch.no_grad() if mode else nullcontext())]
    for name in ("tensor", "as_tensor", "asarray"):
        patches.append(mock.patch.object(torch, name, _made_on_the_cpu(getattr(torch, name))))
    try:
        import torchcodec.decoders._image_decoders as decoders
    except (ImportError, RuntimeError):
        pass
    else:
        patches.append(mock.patch.object(decoders, "_decode_jpegs_cuda", decode_jpegs_as_nvjpeg))
    lifts = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    for patch in patches:
        patch.start()
    try:
        with _in_this_thread():
            yield pretended
            pretended.end_of_test()
    finally:
        for patch in reversed(patches):
            patch.stop()
        torch._C._set_only_lift_cpu_tensors(lifts)
        torch.set_autocast_enabled("privateuseone", False)
        _device = None

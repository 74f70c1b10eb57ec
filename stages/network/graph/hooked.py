"""Networks that cannot be traced: what a module gives, taken by a forward hook while the whole network runs.

The cuts of such a network are its modules that run and give one row per image. What lies above a cut cannot be had
without what lies below, so features come from it and nothing of it is fine-tuned.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cache.errors import UsageError, listed, suggestion
from stages.config.image_size import ImageSize, shape_of_size, size_in_words
from stages.network.graph.cuts import Cut, CutGraph, Layout, is_grid, layout_of
from stages.network.graph.fake_tensors import PeakMemoryMode
from stages.network.graph.pooling import Pool
from stages.network.graph.trace import UntraceableError, in_mode
from stages.network.graph.trunk import FrozenModule, InPrecision, Precision
from stages.network.image_channels import channels_of
from stages.runtime.seeding import fixed_seed

# Images of the run in which the cuts are found; more than one, so that rows can be told from other dimensions.
_BATCH = 3

_PREFIX_TOKENS = ("cls_token", "class_token", "dist_token", "distillation_token", "reg_token", "register_tokens")
"""What libraries call the parameters that become tokens of no patch."""

_captured = threading.local()
"""`outputs` of the modules that are cut at, in the thread that runs the network."""

ARITHMETIC: dict[Precision, str] = {"fp32": "fp32-hooked", "bf16": "bf16-hooked", "fp16": "fp16-hooked"}
"""What is computed for each precision: BatchNorm is not folded, so it is not what `trunk` computes, bit for bit."""


class HookedGraph(CutGraph):
    """The cuts of a network that cannot be traced; what needs a trace (sections, boundaries, blocks) is refused.

    Parameters
    ----------
    module
        Images float [b, 3, S, S] -> a tensor, or a tuple or mapping with one in it.
    image_size
        S, in pixels.
    reason
        Why it cannot be traced.

    Raises
    ------
    UsageError
        By whatever needs a trace.
    """

    def __init__(self, module: nn.Module, image_size: ImageSize, reason: str) -> None:
        self.module = module
        self.image_size = image_size
        self.reason = reason
        untraced: Any = _Untraced(
            f"{type(module).__name__} cannot be traced ({reason}), so nothing of it can be fine-tuned or used above a "
            "cut: train heads on its cached features, such as `head` logistic"
        )
        self._trace = self._training_trace = untraced

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """Every module that gives one row per image, in the order in which they are done."""
        return tuple(self._observed.cuts.values())

    @property
    def tensors(self) -> tuple[Cut, ...]:
        """The cuts: what crosses between modules is not known."""
        return self.cuts

    def tensors_inside(self, matches: Callable[[str], bool]) -> list[Cut]:
        """Return the cuts at modules whose paths match."""
        return [cut for cut in self.cuts if matches(cut.name)]

    def resolve(self, name: str) -> Cut:
        """Return the cut at the module called `name`.

        Raises
        ------
        UsageError
            If there is none, or `name` is ``auto``: only a trace says what the input of the classifier is.
        """
        observed = self._observed
        if name in observed.cuts:
            return observed.cuts[name]
        network = type(self.module).__name__
        if name == "auto":
            examples = " or ".join(cut.name for cut in self.cuts[-2:])
            raise UsageError(
                f"{network} cannot be traced ({self.reason}), so it has no automatic cut: name the module whose output "
                f"is cached with `cut`, such as {examples}. See the command `list-cuts`."
            )
        if name in dict(self.module.named_modules()):
            output = observed.others.get(name)
            reason = "it does not run" if output is None else f"it gives {output}, no row per image"
            raise UsageError(f"{name!r} is no cut of {network}: {reason}. See the command `list-cuts`.")
        nearest = suggestion(name, [cut.name for cut in self.cuts])
        instead = nearest or f" It can be cut at {listed([cut.name for cut in self.cuts], limit=20)}."
        raise UsageError(f"This network has no layer {name!r}.{instead} See the command `list-cuts`.")

    def peak_activation_bytes(self, cut: Cut) -> int:
        """Return the most bytes that one image's activations in float32 take while the whole network runs."""
        return self._observed.peak_bytes

    def note(self, names: str) -> str:
        """Return what there is to know of features taken at these cuts."""
        return (
            f"{type(self.module).__name__} cannot be traced ({self.reason}): a forward hook takes what {names} gives, "
            "the whole network runs for it, and nothing of it can be fine-tuned"
        )

    @cached_property
    def _observed(self) -> _Observation:
        return _Observation.of(self.module, self.image_size)


class HookedTrunk(FrozenModule):
    """A whole network whose modules' outputs are taken as it runs: normalised images -> one row per image and tap.

    It is a copy, in evaluation mode, none of whose parameters requires gradients. A module that runs several times
    gives what it gave last.

    Parameters
    ----------
    graph, taps, precision, device
        As of :class:`~stages.network.graph.trunk.FrozenTrunk`.

    Attributes
    ----------
    precision : str
        As given.
    arithmetic : str
        What is really computed: :data:`ARITHMETIC` of the precision.
    """

    def __init__(
        self, graph: HookedGraph, taps: Sequence[tuple[Cut, Pool]], precision: Precision, device: torch.device
    ) -> None:
        super().__init__()
        self.network = copy.deepcopy(graph.module)
        self.pools = nn.ModuleList([pool for _, pool in taps])
        self._names = [cut.name for cut, _ in taps]
        for name in {*self._names}:
            self.network.get_submodule(name).register_forward_hook(partial(_capture, name))
        self.settle(precision, ARITHMETIC[precision], device)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the pooled rows of each tap, float32 [b, *pool.shape], of normalised images, float32 [b, 3, S, S]."""
        outputs: dict[str, torch.Tensor] = {}
        _captured.outputs = outputs
        try:
            self.network(self.received(images))
        finally:
            del _captured.outputs
        return tuple(pool(outputs[name].float()) for name, pool in zip(self._names, self.pools, strict=True))


class JoinedTrunk(InPrecision):
    """What a trunk gives at several taps, one after the other in one row: (float32 [b, D],).

    Attributes
    ----------
    precision, arithmetic : str
        Of the trunk.
    """

    precision: Precision

    def __init__(self, trunk: HookedTrunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.precision, self.arithmetic = trunk.precision, trunk.arithmetic

    def computing(self) -> AbstractContextManager[Any]:
        """Return the context in which it computes."""
        return self.trunk.computing()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the rows of normalised images, float32 [b, 3, S, S]."""
        return (torch.cat(self.trunk(images), dim=1),)


def cut_graph(module: nn.Module, image_size: ImageSize) -> CutGraph:
    """Return the graph of a network, or, where it cannot be traced, its modules to be hooked.

    Raises
    ------
    UsageError
        If the network does not take images of this size.
    """
    try:
        return CutGraph(module, image_size)
    except UntraceableError as error:
        return HookedGraph(module, image_size, error.reason)


def first_tensor(output: Any) -> torch.Tensor | None:
    """Return the tensor in what a module gives: it, the `last_hidden_state`, or the first of several; None without one.

    Outputs of the library transformers are mappings.
    """
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping):
        hidden = output.get("last_hidden_state")
        output = (hidden, *output.values())
    if isinstance(output, tuple | list):
        return next((tensor for value in output if (tensor := first_tensor(value)) is not None), None)
    return None


def require_tensor_output(module: nn.Module, image_size: ImageSize) -> None:
    """Run a network once and refuse one that raises, or that gives no tensor with a row for each image.

    Raises
    ------
    UsageError
        With what it raised or gave.
    """
    output = _run(module, image_size)
    tensor = first_tensor(output)
    if tensor is None or tensor.shape[:1] != (_BATCH,):
        description = f"a {type(output).__name__}" if tensor is None else f"a tensor {[*tensor.shape]}"
        raise UsageError(
            f"{type(module).__name__} gave {description} for {_BATCH} images, "
            f"{[_BATCH, 3, *shape_of_size(image_size)]}: a backbone has to give a tensor with a row for each image, or "
            "a tuple or mapping with one in it"
        )


@dataclass(frozen=True)
class _Untraced:
    """Stands for the trace of a network that has none, and says so to whoever asks anything of it."""

    message: str

    def __getattr__(self, name: str) -> Any:
        raise UsageError(self.message)


class _Moment(NamedTuple):
    """What a module gave, and what the network had computed by then."""

    shape: tuple[int, ...]
    layout: Layout
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class _Observation:
    """One run of a network.

    Attributes
    ----------
    cuts : dict
        Modules that gave one row per image, in the order in which they were done.
    others : dict
        What the other modules that ran gave, in words.
    peak_bytes : int
        The most bytes per image that tensors took at any time.
    """

    cuts: dict[str, Cut]
    others: dict[str, str]
    peak_bytes: int

    @classmethod
    def of(cls, module: nn.Module, image_size: ImageSize) -> _Observation:
        moments: dict[str, _Moment] = {}
        other_outputs: dict[str, str] = {}
        parameter_counts: dict[int, int] = {}

        def count_parameters(layer: nn.Module, arguments: Any) -> None:
            parameter_counts.update({id(parameter): parameter.numel() for parameter in layer.parameters(recurse=False)})

        def record_output(name: str, layer: nn.Module, arguments: Any, output: Any) -> None:
            moments.pop(name, None)  # of a module that runs again, the last output counts
            tensor = first_tensor(output)
            layout = None
            if tensor is not None and _has_row_per_image(tensor):
                layout = layout_of(tuple(tensor.shape[1:]), image_shape=shape_of_size(image_size))
            if tensor is None or layout is None:
                other_outputs[name] = (
                    f"a {type(output).__name__}" if tensor is None else f"{tensor.dtype} {[*tensor.shape]}"
                )
                return
            flops = counter.get_total_flops() // 2 // _BATCH
            moments[name] = _Moment(tuple(tensor.shape[1:]), layout, sum(parameter_counts.values()), flops)

        layers = [(name, layer) for name, layer in module.named_modules() if name]
        with ExitStack() as hooks:
            for layer in (module, *(layer for _, layer in layers)):
                hooks.callback(layer.register_forward_pre_hook(count_parameters).remove)
            for name, layer in layers:
                hooks.callback(layer.register_forward_hook(partial(record_output, name)).remove)
            with FlopCounterMode(display=False) as counter, PeakMemoryMode() as memory:
                _run(module, image_size)
        multiply_adds = counter.get_total_flops() // 2 // _BATCH
        cuts = {
            name: _cut(module, name, shape_of_size(image_size), moment, sum(parameter_counts.values()), multiply_adds)
            for name, moment in moments.items()
        }
        return cls(cuts, other_outputs, memory.peak // _BATCH)


def _cut(
    module: nn.Module,
    name: str,
    image_shape: tuple[int, int],
    moment: _Moment,
    parameters: int,
    multiply_adds: int,
) -> Cut:
    tokens = {key: value for key, value in module.named_parameters() if key.rpartition(".")[2] in _PREFIX_TOKENS}
    prefix = sum(value.shape[1] for value in tokens.values()) if moment.layout == "tokens" else 0
    patches = moment.shape[0] - prefix
    prefix = prefix if is_grid(patches, image_shape) else 0
    return Cut(
        name=name,
        alias="",
        shape=moment.shape,
        layout=moment.layout,
        parameters_below=moment.parameters,
        parameters_above=parameters - moment.parameters,
        multiply_adds_below=moment.multiply_adds,
        multiply_adds_above=multiply_adds - moment.multiply_adds,
        prefix_tokens=prefix,
        class_token=prefix > 0 and any(key.endswith(("cls_token", "class_token")) for key in tokens),
    )


def _has_row_per_image(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.shape[:1] == (_BATCH,)


def _run(module: nn.Module, image_size: ImageSize) -> Any:
    """Return what a network makes of black images, in evaluation mode; no random number of the program is taken."""
    parameter = next(module.parameters(), torch.zeros(()))
    images = torch.zeros(
        _BATCH, channels_of(module), *shape_of_size(image_size), dtype=parameter.dtype, device=parameter.device
    )
    try:
        with in_mode(module, training=False), torch.no_grad(), fixed_seed(0):
            return module(images)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(". ")
        raise UsageError(
            f"{type(module).__name__} cannot be run on images of {size_in_words(image_size)} pixels ({reason}). It is "
            "called with one tensor, float [b, 3, S, S]; choose another `image_size`, or another backbone"
        ) from error


def _capture(name: str, layer: nn.Module, arguments: Any, output: Any) -> None:
    tensor = first_tensor(output)
    if tensor is not None:
        _captured.outputs[name] = tensor

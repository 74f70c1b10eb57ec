"""The graph of a network in one mode: its steps, what each computes, and which values later steps still need.

The network is traced with ``torch.fx`` and torchvision's ``NodePathTracer``, so that the names of the steps are module
paths, and run once on tensors that have shapes and no numbers. A trace bakes the mode of each layer in (the flag of a
functional dropout, the branch of an ``if self.training``). Where a network is cut is `cut`'s business.
"""

from __future__ import annotations

import inspect
import operator
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from cache.errors import UsageError
from stages.config.image_size import ImageSize, shape_of_size, size_in_words
from stages.network.graph.fake_tensors import DATA_DEPENDENT, PeakMemoryMode, storages, without_computing
from stages.network.image_channels import channels_of

# Batch of the dry run. Nothing is computed in it, so the batch may be any size; a prime that no layer's width, and no
# map's side, is a multiple of tells the sizes that grow with the batch from those that do not.
_DRY_BATCH = 10_007

_ONE_AT_A_TIME = threading.Lock()
"""Two traces at once would each put back what the other had replaced."""

_UNTRACEABLE = (
    *(fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError),
    NotImplementedError,
)
"""What tracing raises where it cannot go on."""


class UntraceableError(UsageError):
    """A network that decides by the numbers in the image, or in a way that torch.fx cannot follow.

    Attributes
    ----------
    reason : str
        What tracing said, in one line.
    """

    def __init__(self, module: nn.Module, reason: str) -> None:
        self.reason = reason.partition("\n")[0].rstrip(". ")
        super().__init__(
            f"{type(module).__name__} cannot be cut: its forward pass cannot be traced ({self.reason}). "
            "Choose another backbone."
        )


class _Copied(NamedTuple):
    """Part of a network's graph, and where in it things are.

    Attributes
    ----------
    graph : fx.Graph
    copies : dict
        Its own node for each of the network's.
    branch_outputs, clones : dict
        What each branch gives, by its name; and the output of a node as it was when computed, by the node's.
    """

    graph: fx.Graph
    copies: dict[fx.Node, Any]
    branch_outputs: dict[str, fx.Node]
    clones: dict[str, fx.Node]


class Trace:
    """The graph of a network in one mode, what its nodes hold, and what crosses after each.

    Parameters
    ----------
    module
        A classification network taking images float [b, 3, S, S] and returning logits [b, classes].
    image_size
        S, in pixels.
    training
        The mode that is traced.
    frozen
        Paths of layers that are traced in evaluation mode all the same.
    reference_trace
        A trace of the same network: where its steps have the same names, their values are taken over.

    Attributes
    ----------
    nodes : list of fx.Node
        The steps in order, from the image to the output.
    names, by_name, position : dict
        The path of each node, the node of each path, and the place of each node in `nodes`.
    values : dict
        What each node gives in the dry run: tensors with shapes and no numbers, sizes, tuples.
    multiply_adds : dict
        Of each node, per image.
    live_values : list of list of fx.Node
        For each node, those up to it whose output a later one needs.

    Raises
    ------
    UsageError
        If the network cannot be traced, or does not take images of this size.
    """

    def __init__(
        self,
        module: nn.Module,
        image_size: ImageSize,
        *,
        training: bool,
        frozen: Collection[str] = (),
        reference_trace: Trace | None = None,
    ) -> None:
        graph, paths = _traced(module, training=training, frozen=frozen)
        self.nodes = list(graph.nodes)
        # The output, and buffers read outside any call, have no path of their own.
        self.names: dict[fx.Node, str] = {node: paths.get(node, f"{node.op} {node.name}") for node in self.nodes}
        self.by_name = {name: node for node, name in self.names.items()}
        self.position = {node: index for index, node in enumerate(self.nodes)}
        self.image, self.output = self.nodes[0], self.nodes[-1].args[0]
        if not training and not isinstance(self.output, fx.Node):
            raise UntraceableError(module, "it gives several things, and no trace says which of them counts")
        self.changes = _in_place_updates(self.nodes)
        self.values: dict[fx.Node, Any]
        self.multiply_adds: dict[fx.Node, int]
        self.bytes_made: dict[fx.Node, int]
        if reference_trace is not None and [*reference_trace.by_name] == [*self.by_name]:
            # The same steps in both modes, as in most networks: the shapes are known.
            self.values = {
                self.by_name[name]: reference_trace.values[node] for node, name in reference_trace.names.items()
            }
            self.multiply_adds = {
                self.by_name[name]: reference_trace.multiply_adds[node] for node, name in reference_trace.names.items()
            }
            self.bytes_made = {
                self.by_name[name]: reference_trace.bytes_made[node] for node, name in reference_trace.names.items()
            }
        else:
            recorder = _dry_run(module, graph, image_size)
            self.values, self.multiply_adds = recorder.values, recorder.multiply_adds
            self.bytes_made = recorder.bytes_made
        self.live_values = self._find_crossing()

    def _find_crossing(self) -> list[list[fx.Node]]:
        """Return for each node the nodes up to it whose output a later one needs.

        Only nodes that hold tensors computed from the image count.
        """
        carriers = {self.image}
        for node in self.nodes[1:]:
            if carriers.intersection(node.all_input_nodes) and _holds_tensor(self.values[node]):
                carriers.add(node)
        needed = self._needed_for(self.nodes[-1], stop=lambda node: False)
        uses = {node: [user for user in node.users if user in carriers and user in needed] for node in carriers}
        last_use = {node: max((self.position[user] for user in uses[node]), default=-1) for node in carriers}
        crossing, alive = [], list[fx.Node]()
        for index, node in enumerate(self.nodes):
            alive = [live_node for live_node in (*alive, node) if last_use.get(live_node, -1) > index]
            crossing.append(alive)
        return crossing

    def crosses_alone(self, name: str) -> bool:
        """Say whether exactly the output of the node called `name` crosses after it."""
        node = self.by_name.get(name)
        return node is not None and node is not self.image and self.live_values[self.position[node]] == [node]

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Return the shape of a node's output for one image."""
        return tuple(getattr(self.values[node], "shape", (0,))[1:])

    def has_row_per_image(self, node: fx.Node) -> bool:
        """Say whether a node's output is one tensor of floating-point numbers with a row for each image."""
        value = self.values[node]
        return isinstance(value, torch.Tensor) and value.is_floating_point() and value.shape[:1] == (_DRY_BATCH,)

    def peak_bytes(self, end: str) -> int:
        """Return the most bytes per image that tensors take at any time on the way to the node `end`."""
        needed_before: list[list[fx.Node]] = [[], *self.live_values]
        steps = zip(self.nodes[: self.position[self.by_name[end]] + 1], needed_before, strict=False)
        return max(
            self.bytes_made[node] + sum(storages(self.values[live_node] for live_node in needed).values()) // _DRY_BATCH
            for node, needed in steps
        )

    def section(
        self,
        start: str | None,
        end: str | None,
        branches: Sequence[tuple[str, str]] = (),
        outputs: Sequence[str] = (),
    ) -> fx.Graph:
        """Return the graph that computes the node `end` from the node `start` (None: logits, image).

        `branches` are pairs of a module's name and of the node whose output it takes; with any, the graph gives what
        they make of it, too, by their names. `outputs` are nodes on the way whose own outputs are given before that of
        the end, as a tuple.
        """
        last = self.by_name[end] if end else self.output
        copied = self._copied(self.by_name[start] if start else self.image, [last], branches, outputs)
        end_output = copied.copies[last]
        result = (*(copied.clones[name] for name in outputs), end_output) if outputs else end_output
        copied.graph.output((result, copied.branch_outputs) if branches else result)
        return copied.graph

    def tapped(self, taps: Sequence[tuple[str, str]]) -> fx.Graph:
        """Return the graph that computes what modules make of the outputs of nodes, from the image, in one pass.

        `taps` are pairs as the `branches` of :meth:`section`; the graph gives a tuple in their order. A module is run
        as soon as its node was, before layers above change the tensor in place.
        """
        goals = [self.by_name[name] for _, name in taps]
        copied = self._copied(self.image, goals, taps)
        copied.graph.output(tuple(copied.branch_outputs[module] for module, _ in taps))
        return copied.graph

    def _copied(
        self,
        first: fx.Node,
        goals: Sequence[fx.Node],
        branches: Sequence[tuple[str, str]],
        cloned: Collection[str] = (),
    ) -> _Copied:
        """Return a graph, without an output yet, of what some nodes are computed with from `first`."""
        above = self._above(first)

        def is_size_from_below(node: fx.Node) -> bool:
            return node not in above and node.op != "get_attr" and not _holds_tensor(self.values[node])

        def is_below(node: fx.Node) -> bool:
            return node is first or is_size_from_below(node)

        needed = set[fx.Node]().union(*(self._needed_for(goal, stop=is_below) for goal in goals))
        graph = fx.Graph()
        x = graph.placeholder("x")
        copies: dict[fx.Node, Any] = {}
        branch_outputs: dict[str, fx.Node] = {}
        clones: dict[str, fx.Node] = {}
        for node in self.nodes:
            if node not in needed:
                continue
            if node is first:
                # Layers above may work in place (ReLU, dropout in training): the caller's features stay as they are.
                copies[node] = x if first is self.image else graph.call_method("clone", (x,))
            elif is_size_from_below(node):
                copies[node] = _size(self.values[node], graph, x)
            else:
                copies[node] = graph.node_copy(node, lambda source: copies[source])
            for name in (name for name, cut_name in branches if self.by_name[cut_name] is node):
                branch_outputs[name] = graph.call_module(name, (copies[node],))
            if self.names[node] in cloned:
                # what comes after may work in place, as above
                clones[self.names[node]] = graph.call_method("clone", (copies[node],))
        return _Copied(graph, copies, branch_outputs, clones)

    def _above(self, first: fx.Node) -> set[fx.Node]:
        above = {first}
        for node in self.nodes[self.position[first] :]:
            if above.intersection(node.all_input_nodes):
                above.add(node)
        return above

    def _needed_for(self, goal: fx.Node, stop: Callable[[fx.Node], bool]) -> set[fx.Node]:
        """Return all nodes `goal` is computed from, not going below those where `stop` holds."""
        needed: set[fx.Node] = set()
        waiting = [goal]
        while waiting:
            node = waiting.pop()
            if node not in needed:
                needed.add(node)
                waiting.extend(
                    update for update in self.changes.get(node, ()) if self.position[update] < self.position[goal]
                )
                waiting.extend([] if stop(node) else node.all_input_nodes)
        return needed


def check_image_size(module: nn.Module, image_size: ImageSize) -> None:
    """Raise UsageError if the network does not take images of `image_size` pixels; nothing is computed."""
    with in_mode(module, training=False), without_computing(module), _sizes_explained(image_size):
        module(_blank_images(module, image_size))


def layers_in_order(module: nn.Module) -> list[str]:
    """Return what a network computes with in evaluation mode, in order: paths of layers, parameters and buffers.

    Raises
    ------
    UsageError
        If the network cannot be traced.
    """
    graph, _ = _traced(module, training=False)
    return [str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")]


def _traced(module: nn.Module, *, training: bool, frozen: Collection[str] = ()) -> tuple[fx.Graph, dict[fx.Node, str]]:
    """Return the graph of a network in one mode, and the paths of its nodes."""
    from stages.network.graph.tracer import build_tracer  # torchvision and timm, which no head on features waits for

    with _ONE_AT_A_TIME, in_mode(module, training=training), _untraceable_explained(module):
        tracer = build_tracer()
        for path in frozen:
            module.get_submodule(path).eval()
        graph = tracer.trace(module, concrete_args=_defaults(module))
    return graph, tracer.node_to_qualname


def _defaults(module: nn.Module) -> dict[str, Any]:
    """Return what a network's forward takes besides images, as it is where nobody says otherwise."""
    parameters = list(inspect.signature(module.forward).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def _in_place_updates(nodes: list[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Return for each node those that change its tensor where it is and give nothing back.

    ``mask.div_(keep)`` as a statement: whoever needs the tensor needs it too.
    """
    changes: dict[fx.Node, list[fx.Node]] = {}
    for node in nodes:
        in_place = node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__")
        if in_place and isinstance(changed := node.args[0], fx.Node):
            changes.setdefault(changed, []).append(node)
    return changes


class _Recorder(fx.Interpreter):
    """Runs a graph node by node; keeps each value, and per image its multiply-adds and the bytes made on the way."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.values: dict[fx.Node, Any] = {}
        self.multiply_adds: dict[fx.Node, int] = {}
        self.bytes_made: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        with FlopCounterMode(display=False) as counter, PeakMemoryMode() as memory:
            value = super().run_node(n)
        self.values[n] = value
        self.multiply_adds[n] = counter.get_total_flops() // 2 // _DRY_BATCH
        self.bytes_made[n] = memory.peak // _DRY_BATCH
        return value


def _dry_run(module: nn.Module, graph: fx.Graph, image_size: ImageSize) -> _Recorder:
    """Run a graph without computing; in evaluation mode, so that BatchNorm statistics stay as they are."""
    recorder = _Recorder(module, graph)
    with in_mode(module, training=False), without_computing(module), _sizes_explained(image_size):
        try:
            recorder.run(_blank_images(module, image_size), *_defaults(module).values())
        except DATA_DEPENDENT as error:
            raise UntraceableError(module, f"{type(error).__name__}: {error}") from error
    return recorder


@contextmanager
def _untraceable_explained(module: nn.Module) -> Iterator[None]:
    """Turn what tracing raises at a network that decides by the numbers in the image into an UntraceableError."""
    try:
        yield
    except _UNTRACEABLE as error:
        raise UntraceableError(module, f"{type(error).__name__}: {error}") from error


@contextmanager
def _sizes_explained(image_size: ImageSize) -> Iterator[None]:
    """Turn what a network raises on images of the wrong size into a UsageError."""
    try:
        yield
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"This network cannot be run on images of {size_in_words(image_size)} pixels ({reason}). "
            "Leave out `image_size` to take the network's own, or choose a network that takes other sizes."
        ) from error


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a network into one mode, and each of its modules back into its own afterwards."""
    modes = {submodule: submodule.training for submodule in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for submodule, mode in modes.items():
            submodule.training = mode


def _blank_images(module: nn.Module, image_size: ImageSize) -> torch.Tensor:
    parameter = next(module.parameters(), torch.zeros(()))
    return torch.zeros(
        _DRY_BATCH, channels_of(module), *shape_of_size(image_size), dtype=parameter.dtype, device=parameter.device
    )


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_holds_tensor(item) for item in value)
    return isinstance(value, torch.Tensor)


def _size(value: Any, graph: fx.Graph, x: fx.Node) -> Any:
    """Return a size of the dry run as an argument in a section's graph: multiples of the batch follow that of `x`."""
    if isinstance(value, tuple | list):
        return tuple(_size(item, graph, x) for item in value)
    if type(value) is int and value and value % _DRY_BATCH == 0:
        return graph.call_function(operator.mul, (graph.call_method("size", (x, 0)), value // _DRY_BATCH))
    return value

"""Where a network can be cut in two, found on its graph, and the two parts as modules.

The network is traced with ``torch.fx`` and torchvision's ``NodePathTracer`` (node names are module paths). Walking
the nodes in order, the set of values that later nodes still need is known at every node; where the only one is the
node's own output, exactly one tensor crosses, and the node is a *cut*. Only tensors computed from the image count:
sizes, and tensors made of parameters alone (position tables), are worked out again in the part that needs them.

A trace bakes the mode in (the flag of a functional dropout, the branch of an ``if self.training``), so every network
is traced in both modes, a cut is a cut in both, and a section chooses the graph of its own mode.

What a cut's output is pooled to is `pooling`'s business, which parameters train is `freezing`'s.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

import timm.models
import torch
import torchvision.ops
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import NodePathTracer

from cache.errors import UsageError, suggestion
from stages.network.classifier import output_layers

Layout = Literal["vector", "nchw", "nhwc", "tokens"]

# Batch of the dry run. Nothing is computed in it, so the batch may be any size; a prime that no layer's width, and no
# map's side, is a multiple of tells the sizes that grow with the batch from those that do not.
_DRY_BATCH = 10_007

_TRANSPOSING = {"permute", "transpose", "swapaxes", "movedim"}
_FLATTENING = {"flatten", "reshape", "view"}
_PASSING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


@dataclass(frozen=True)
class Cut:
    """A place in a network where exactly one tensor crosses.

    Attributes
    ----------
    name
        Path of the operation whose output crosses, such as ``layer4.1.relu_1``.
    alias
        Shortest name of a module for which this is the last cut inside (``layer4``), or an empty string.
    shape
        Shape of the output for one image, without the batch dimension.
    layout
        What the dimensions mean: ``vector`` [D], ``nchw`` [C, H, W], ``nhwc`` [H, W, C], ``tokens`` [N, C].
    parameters_below, parameters_above
        Parameters used up to and including the cut, and those first used above it.
    multiply_adds_below, multiply_adds_above
        Multiply-adds of convolutions, linear layers and attention, per image.
    prefix_tokens
        How many of the first tokens belong to no patch of the image (class, distillation, register tokens).
    class_token
        Whether the first token is a class token.
    """

    name: str
    alias: str
    shape: tuple[int, ...]
    layout: Layout
    parameters_below: int
    parameters_above: int
    multiply_adds_below: int
    multiply_adds_above: int
    prefix_tokens: int = 0
    class_token: bool = False

    @property
    def bytes_per_image(self) -> int:
        """Bytes one image takes in a cache of unpooled float16."""
        return 2 * math.prod(self.shape)


@dataclass(frozen=True)
class Boundary:
    """Where the frozen part of a network ends, and what trains above it.

    Attributes
    ----------
    cut
        The deepest cut below everything that trains; None if training begins at the image.
    trainable
        Prefixes (module paths, or names of single parameters) of all that trains.
    """

    cut: Cut | None
    trainable: tuple[str, ...]


class CutGraph:
    """The graph of a network, the cuts in it, and the sections between them.

    Sections share the network's own modules and parameters: what is trained, loaded or moved to a device in one is so
    in the network.

    Parameters
    ----------
    module
        A classification network taking images float [b, 3, S, S] and returning logits [b, classes].
    image_size
        S, in pixels. Shapes and costs are those of this size, and sections take images of it.

    Raises
    ------
    UsageError
        If the network cannot be traced, or does not take images of this size.
    """

    def __init__(self, module: nn.Module, image_size: int) -> None:
        self.module = module
        self.image_size = image_size
        self._trace = _Trace(module, image_size, training=False)
        self._training_trace = _Trace(module, image_size, training=True, twin=self._trace)

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """Every cut, from the image to the logits."""
        trace = self._trace
        chosen: dict[fx.Node, Layout] = {}
        latest_map: tuple[Layout, int] = ("nchw", self.image_size)
        for node in trace.nodes:
            if trace.crosses_alone(trace.names[node]) and self._training_trace.crosses_alone(trace.names[node]):
                layout = self._layout(node, *latest_map)
                if layout is not None:
                    chosen[node] = layout
                if layout in ("nchw", "nhwc"):
                    latest_map = (layout, self._shape(node)[1])
        aliases = self._aliases(list(chosen))
        return tuple(self._describe(node, layout, aliases.get(node, "")) for node, layout in chosen.items())

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks of the main sequence, from the image upwards, without the output layer.

        Blocks are the network's children that hold the weights of convolutions or linear layers. While there are
        fewer than four, the one with most layers is replaced by its own children: ``features`` becomes
        ``features.0``, ``features.1``, ..., and a ResNet stays ``conv1``, ``layer1``, ... ``layer4``.
        """
        layers = [layer for node in self._below_classifier() for layer in self._weighted_layers(node)]
        blocks = _children("", layers)
        while len(blocks) < 4:
            sizes = {block: len(_inside(block, layers)) for block in blocks if _children(block, layers)}
            if not sizes:
                break
            largest = max(sizes, key=lambda block: sizes[block])
            at = blocks.index(largest)
            blocks[at : at + 1] = _children(largest, layers)
        return tuple(blocks)

    def resolve(self, name: str) -> Cut:
        """Return the cut called `name`.

        Parameters
        ----------
        name
            A cut's own name; a module's name, which means the last cut inside it; or ``auto``, the input of the
            output layer: the last cut below it, dropout not counted. That is the pooled vector of nearly every
            network, and the map before the last convolution in SqueezeNet, which pools after it.

        Raises
        ------
        UsageError
            If no layer is called so, or the layer holds no cut; the nearest names or cuts are in the message.
        """
        if name == "auto":
            return self._input_of_classifier()
        by_name = {cut.name: cut for cut in self.cuts}
        if name in by_name:
            return by_name[name]
        inside = [cut for cut in self.cuts if _is_inside(self._owner(self._trace.by_name[cut.name]), name)]
        if inside:
            return inside[-1]
        raise self._refusal(name)

    def section(self, start: Cut | None, end: Cut | None) -> nn.Module:
        """Return the part of the network from the output of `start` to the output of `end`.

        ``section(None, cut)`` is the trunk, ``section(cut, None)`` the top. The section holds only the submodules it
        needs, under their paths in the network, so that its state_dict has the network's names. Its mode is its own:
        call ``train()`` and ``eval()`` on the section. It takes any batch size and leaves its input as it is.

        Raises
        ------
        UsageError
            If `end` is below `start`.
        """
        ends = self._ends(start, end)
        return Section(self.module, {False: self._trace.section(*ends), True: self._training_trace.section(*ends)})

    def evaluation_section(self, start: Cut | None, end: Cut | None) -> fx.GraphModule:
        """Return what :meth:`section` computes in evaluation mode, with its graph, for those who rewrite it.

        It shares the network's modules and parameters, as sections do.
        """
        return fx.GraphModule(self.module, self._trace.section(*self._ends(start, end)))

    def peak_activation_bytes(self, cut: Cut) -> int:
        """Return the most bytes that one image's activations in float32 take at any time on the way to `cut`.

        These are the outputs that a later step of the graph needs, and the tensors that the running step makes; views
        and what is written in place take none of their own. Work space inside the kernels is not counted.
        """
        trace = self._trace
        needed_before: list[list[fx.Node]] = [[], *trace.crossing]
        steps = zip(trace.nodes[: self._position(cut) + 1], needed_before, strict=False)
        return max(
            trace.bytes_made[node] + sum(_pieces(trace.values[one] for one in needed).values()) // _DRY_BATCH
            for node, needed in steps
        )

    def _ends(self, start: Cut | None, end: Cut | None) -> tuple[str | None, str | None]:
        """Return the names of the nodes where a section starts and ends."""
        if start is not None and end is not None and self._position(end) < self._position(start):
            raise UsageError(
                f"No section goes from {start.name!r} up to {end.name!r}: the second lies below the first."
            )
        return (start.name if start else None, end.name if end else None)

    def boundary(self, unfreeze: str) -> Boundary:
        """Return where the frozen part ends when `unfreeze` trains.

        Parameters
        ----------
        unfreeze
            ``all``; the name of a layer or a cut (it and everything above it trains); or a number n (the top n of
            :attr:`blocks`, and everything above them).

        Raises
        ------
        UsageError
            If there is no such layer, or not that many blocks.
        """
        if unfreeze == "all":
            return Boundary(None, _prefixes(self.module, {name for name, _ in self.module.named_parameters()}))
        layer = self._nth_block_from_top(int(unfreeze)) if unfreeze.isdecimal() else unfreeze
        trace, nodes = self._trace, self._nodes_inside(layer)
        if not nodes:
            raise self._refusal(layer)
        first = trace.position[nodes[0]]
        below = {name for node in trace.nodes[:first] for name, _ in self._parameters(node)}
        above = {name for node in trace.nodes[first:] for name, _ in self._parameters(node)}
        cuts_below = [cut for cut in self.cuts if self._position(cut) < first]
        return Boundary(cuts_below[-1] if cuts_below else None, _prefixes(self.module, above - below))

    def _nth_block_from_top(self, count: int) -> str:
        if not 1 <= count <= len(self.blocks):
            raise UsageError(
                f"unfreeze {count}: this network has {len(self.blocks)} blocks ({', '.join(self.blocks)}); "
                f"give a number from 1 to {len(self.blocks)}, the name of a layer, or all."
            )
        return self.blocks[-count]

    def _layout(self, node: fx.Node, map_layout: Layout, map_side: int) -> Layout | None:
        """Return what the dimensions of a node's output mean, or None if they are no row per image that pools.

        `map_layout` and `map_side` are those of the latest map below; maps never grow on the way to a classifier, so
        that three sides of which two are equal, but longer than that, are windows of tokens and no map.
        """
        value = self._trace.values[node]
        if not (isinstance(value, torch.Tensor) and value.is_floating_point() and value.shape[:1] == (_DRY_BATCH,)):
            return None
        layout = layout_of(self._shape(node), ambiguous=map_layout)
        if layout in ("nchw", "nhwc") and value.shape[2] > map_side:
            return None
        return None if layout == "tokens" and self._is_flattened_map(node) else layout

    def _is_flattened_map(self, node: fx.Node) -> bool:
        """Say whether a node's three dimensions are [b, C, H * W] and not tokens [b, N, C]."""
        source = node.all_input_nodes[0]
        shape, below, operation = self._shape(node), self._shape(source), _operation(node)
        if operation in _TRANSPOSING and len(below) == 2:
            return not self._is_flattened_map(source)
        return operation in _FLATTENING and len(below) == 3 and shape == (below[0], below[1] * below[2])

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        """Return the shape of a node's output for one image."""
        return tuple(getattr(self._trace.values[node], "shape", (0,))[1:])

    def _aliases(self, nodes: list[fx.Node]) -> dict[fx.Node, str]:
        """Return the shortest module name for each node that is the last of `nodes` inside that module."""
        last: dict[str, fx.Node] = {}
        for node in nodes:
            for path in _paths(self._owner(node)):
                last[path] = node
        aliases: dict[fx.Node, str] = {}
        for path, node in sorted(last.items(), key=lambda entry: entry[0].count(".")):
            if path != self._trace.names[node]:
                aliases.setdefault(node, path)
        return aliases

    def _describe(self, node: fx.Node, layout: Layout, alias: str) -> Cut:
        trace = self._trace
        name, at = trace.names[node], trace.position[node]
        shape = self._shape(node)
        parameters, multiply_adds = self._parameters_up_to, self._multiply_adds_up_to
        prefix = _prefix_tokens(self.module) if layout == "tokens" else 0
        prefix = prefix if math.isqrt(max(shape[0] - prefix, 0)) ** 2 == shape[0] - prefix else 0
        return Cut(
            name,
            alias,
            shape,
            layout,
            parameters[at],
            parameters[-1] - parameters[at],
            multiply_adds[at],
            multiply_adds[-1] - multiply_adds[at],
            prefix,
            class_token=prefix > 0 and _has_class_token(self.module),
        )

    @cached_property
    def _parameters_up_to(self) -> list[int]:
        seen: set[str] = set()
        counts = []
        for node in self._trace.nodes:
            new = {name: parameter for name, parameter in self._parameters(node) if name not in seen}
            seen.update(new)
            counts.append(sum(parameter.numel() for parameter in new.values()))
        return list(accumulate(counts))

    @cached_property
    def _multiply_adds_up_to(self) -> list[int]:
        return list(accumulate(self._trace.multiply_adds[node] for node in self._trace.nodes))

    def _parameters(self, node: fx.Node) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters a node computes with, by their names in the network."""
        if node.op == "call_module":
            layer = self.module.get_submodule(str(node.target))
            return [(f"{node.target}.{name}", parameter) for name, parameter in layer.named_parameters()]
        read = [str(source.target) for source in node.all_input_nodes if source.op == "get_attr"]
        values = {name: operator.attrgetter(name)(self.module) for name in read}
        return [(name, value) for name, value in values.items() if isinstance(value, nn.Parameter)]

    def _weighted_layers(self, node: fx.Node) -> list[str]:
        """Return the modules whose weight matrices or kernels a node uses."""
        weights = [name for name, value in self._parameters(node) if name.endswith("weight") and value.ndim > 1]
        return [name.rpartition(".")[0] for name in weights]

    def _below_classifier(self) -> list[fx.Node]:
        """Return the nodes below the output layer; all of them if the network has none."""
        nodes, outputs = self._trace.nodes, output_layers(self.module)
        found = (index for index, node in enumerate(nodes) if {*outputs}.intersection(self._weighted_layers(node)))
        return nodes[: next(found, len(nodes))]

    def _input_of_classifier(self) -> Cut:
        end = len(self._below_classifier())
        below = [cut for cut in self.cuts if self._position(cut) < end]
        while below and self._passes_its_input_on(self._trace.by_name[below[-1].name]):
            below.pop()
        if not below:
            raise UsageError("This network has no cut below its output layer; name the layer to cut at.")
        return below[-1]

    def _passes_its_input_on(self, node: fx.Node) -> bool:
        """Say whether a node does nothing in evaluation mode."""
        if node.op == "call_module":
            return isinstance(self.module.get_submodule(str(node.target)), _PASSING)
        return node.target is nn.functional.dropout

    def _owner(self, node: fx.Node) -> str:
        """Return the path of the module in whose forward a node runs; of the module itself if the node calls one."""
        return str(node.target) if node.op == "call_module" else self._trace.names[node].rpartition(".")[0]

    def _nodes_inside(self, layer: str) -> list[fx.Node]:
        nodes = self._trace.nodes
        named = [node for node in nodes if _is_inside(self._owner(node), layer)]
        return named or [node for node in nodes if self._trace.names[node] == layer]

    def _position(self, cut: Cut) -> int:
        return self._trace.position[self._trace.by_name[cut.name]]

    def _refusal(self, name: str) -> UsageError:
        """Return the error for a layer that holds no cut, or that does not exist."""
        nodes = self._nodes_inside(name)
        modules = [path for path, _ in self.module.named_modules() if path]
        if not nodes and name not in modules:
            known = [*modules, *(cut.name for cut in self.cuts), "auto"]
            return UsageError(f"This network has no layer {name!r}.{suggestion(name, known)} See the command `layers`.")
        if not nodes:
            holders = [path for path in _paths(name) if path in self._trace.by_name]
            where = f"runs inside {holders[0]!r}, which is one step" if holders else "does not run in evaluation mode"
            return UsageError(f"{name!r} is no cut: it {where}. See the command `layers` for those there are.")
        trace = self._trace
        last = trace.position[nodes[-1]]
        others = [trace.names[node] for node in trace.crossing[last] if node is not nodes[-1]]
        why = (
            f"besides its output, that of {' and '.join(map(repr, others[:3]))} is still needed above it "
            "(it lies in a residual or parallel branch)"
            if others
            else "its output is neither a vector, a map nor tokens with one row per image"
        )
        below = [cut.name for cut in self.cuts if self._position(cut) < trace.position[nodes[0]]][-1:]
        above = [cut.name for cut in self.cuts if self._position(cut) > last][:1]
        nearest = [f"{at!r} {side}" for cuts, side in ((below, "below"), (above, "above")) for at in cuts]
        return UsageError(f"{name!r} is no cut: {why}. Nearest cuts: {' and '.join(nearest)}.")


class Section(nn.Module):
    """Part of a network, computing with the network's own submodules; made by :meth:`CutGraph.section`."""

    def __init__(self, network: nn.Module, graphs: dict[bool, fx.Graph]) -> None:
        super().__init__()
        self.training = network.training
        for graph in graphs.values():
            for node in graph.nodes:
                if node.op in ("call_module", "get_attr"):
                    _share(network, self, str(node.target))
        # The function that fx writes for a graph only reads attributes of its first argument, so that one module can
        # carry one for each mode.
        self._forwards = {mode: type(fx.GraphModule(self, graph)).forward for mode, graph in graphs.items()}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the section: float [b, *shape of its start] -> [b, *shape of its end]."""
        output: torch.Tensor = self._forwards[self.training](self, x)
        return output


def layout_of(shape: tuple[int, ...], ambiguous: Layout = "nchw") -> Layout | None:
    """Return the layout of a row of this shape; None if it is neither vector, tokens nor a square map.

    Images are square, so maps are: the two equal sides are height and width. `ambiguous` is the answer for a cube.
    """
    if len(shape) == 1:
        return "vector"
    if len(shape) == 2:
        return "tokens"
    if len(shape) != 3:
        return None
    if shape[0] == shape[1] == shape[2]:
        return ambiguous
    if shape[1] == shape[2]:
        return "nchw"
    return "nhwc" if shape[0] == shape[1] else None


def check_image_size(module: nn.Module, image_size: int) -> None:
    """Raise UsageError if the network does not take images of `image_size` pixels; nothing is computed."""
    with _mode(module, training=False), _without_computing(), _sizes_explained(image_size):
        module(_blank_images(module, image_size))


class _Trace:
    """The graph of a network in one mode, what its nodes hold, and what crosses after each."""

    def __init__(self, module: nn.Module, image_size: int, *, training: bool, twin: _Trace | None = None) -> None:
        tracer, defaults = _tracer(), _defaults(module)
        with _mode(module, training=training), _untraceable_explained(module):
            graph = tracer.trace(module, concrete_args=defaults)
        self.nodes = list(graph.nodes)
        # The output, and buffers read outside any call, have no path of their own.
        paths = tracer.node_to_qualname
        self.names: dict[fx.Node, str] = {node: paths.get(node, f"{node.op} {node.name}") for node in self.nodes}
        self.by_name = {name: node for node, name in self.names.items()}
        self.position = {node: index for index, node in enumerate(self.nodes)}
        self.image, self.output = self.nodes[0], self.nodes[-1].args[0]
        self.changes = _changes(self.nodes)
        self.values: dict[fx.Node, Any]
        self.multiply_adds: dict[fx.Node, int]
        self.bytes_made: dict[fx.Node, int]
        if twin is not None and [*twin.by_name] == [*self.by_name]:
            # The same steps in both modes, as in most networks: the shapes are known.
            self.values = {self.by_name[name]: twin.values[node] for node, name in twin.names.items()}
            self.multiply_adds = {self.by_name[name]: twin.multiply_adds[node] for node, name in twin.names.items()}
            self.bytes_made = {self.by_name[name]: twin.bytes_made[node] for node, name in twin.names.items()}
        else:
            recorder = _dry_run(module, graph, image_size, defaults)
            self.values, self.multiply_adds = recorder.values, recorder.multiply_adds
            self.bytes_made = recorder.bytes_made
        self.crossing = self._find_crossing()

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
            alive = [one for one in (*alive, node) if last_use.get(one, -1) > index]
            crossing.append(alive)
        return crossing

    def crosses_alone(self, name: str) -> bool:
        """Say whether exactly the output of the node called `name` crosses after it."""
        node = self.by_name.get(name)
        return node is not None and node is not self.image and self.crossing[self.position[node]] == [node]

    def section(self, start: str | None, end: str | None) -> fx.Graph:
        """Return the graph that computes the node `end` from the node `start` (None: logits, image)."""
        first = self.by_name[start] if start else self.image
        last = self.by_name[end] if end else self.output
        above = self._above(first)

        def is_size_from_below(node: fx.Node) -> bool:
            return node not in above and node.op != "get_attr" and not _holds_tensor(self.values[node])

        needed = self._needed_for(last, stop=lambda node: node is first or is_size_from_below(node))
        graph = fx.Graph()
        x = graph.placeholder("x")
        copies: dict[fx.Node, Any] = {}
        for node in self.nodes:
            if node not in needed:
                continue
            if node is first:
                # Layers above may work in place (ReLU, dropout in training): the caller's features stay as they are.
                copies[node] = x if start is None else graph.call_method("clone", (x,))
            elif is_size_from_below(node):
                copies[node] = _size(self.values[node], graph, x)
            else:
                copies[node] = graph.node_copy(node, lambda source: copies[source])
        graph.output(copies[last])
        return graph

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
                waiting.extend(one for one in self.changes.get(node, ()) if self.position[one] < self.position[goal])
                waiting.extend([] if stop(node) else node.all_input_nodes)
        return needed


def _tracer() -> NodePathTracer:
    """Return a tracer that treats as one step what torchvision and timm say cannot be traced through."""
    operations = [
        kind for _, kind in inspect.getmembers(torchvision.ops, inspect.isclass) if issubclass(kind, nn.Module)
    ]
    registered: Any = timm.models
    return NodePathTracer(
        leaf_modules=[*operations, *registered.get_notrace_modules()],
        autowrap_modules=(math, torchvision.ops),
        autowrap_functions=tuple(registered.get_notrace_functions()),
    )


def _defaults(module: nn.Module) -> dict[str, Any]:
    """Return what a network's forward takes besides images, as it is where nobody says otherwise."""
    others = list(inspect.signature(module.forward).parameters.values())[1:]
    return {other.name: other.default for other in others if other.default is not other.empty}


def _changes(nodes: list[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Return for each node those that change its tensor where it is and give nothing back.

    ``mask.div_(keep)`` as a statement: whoever needs the tensor needs it too.
    """
    changes: dict[fx.Node, list[fx.Node]] = {}
    for node in nodes:
        in_place = node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__")
        if in_place and isinstance(changed := node.args[0], fx.Node):
            changes.setdefault(changed, []).append(node)
    return changes


class _Memory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Finds the most bytes that the tensors made while it is active take at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._made: dict[Any, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        given = _pieces((args, kwargs))
        self._made.update({piece: size for piece, size in _pieces([output]).items() if piece not in given})
        self._made = {piece: size for piece, size in self._made.items() if not piece.expired()}
        self.peak = max(self.peak, sum(self._made.values()))
        return output


class _Recorder(fx.Interpreter):
    """Runs a graph node by node; keeps each value, and per image its multiply-adds and the bytes made on the way."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.values: dict[fx.Node, Any] = {}
        self.multiply_adds: dict[fx.Node, int] = {}
        self.bytes_made: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        with FlopCounterMode(display=False) as counter, _Memory() as memory:
            value = super().run_node(n)
        self.values[n] = value
        self.multiply_adds[n] = counter.get_total_flops() // 2 // _DRY_BATCH
        self.bytes_made[n] = memory.peak // _DRY_BATCH
        return value


def _dry_run(module: nn.Module, graph: fx.Graph, image_size: int, others: dict[str, Any]) -> _Recorder:
    """Run a graph without computing; in evaluation mode, so that BatchNorm statistics stay as they are."""
    recorder = _Recorder(module, graph)
    with _mode(module, training=False), _without_computing(), _sizes_explained(image_size):
        recorder.run(_blank_images(module, image_size), *others.values())
    return recorder


@contextmanager
def _without_computing() -> Iterator[None]:
    """Make tensors know their shapes and nothing else, and attention consist of products that can be counted."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


@contextmanager
def _untraceable_explained(module: nn.Module) -> Iterator[None]:
    """Turn what tracing raises at a network that decides by the numbers in the image into a UsageError."""
    try:
        yield
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        raise UsageError(
            f"{type(module).__name__} cannot be cut: its forward pass cannot be traced ({error}). "
            "Choose another backbone."
        ) from error


@contextmanager
def _sizes_explained(image_size: int) -> Iterator[None]:
    """Turn what a network raises on images of the wrong size into a UsageError."""
    try:
        yield
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"This network cannot be run on images of {image_size} x {image_size} pixels ({reason}). "
            "Leave out --image-size to take the network's own, or choose a network that takes other sizes."
        ) from error


@contextmanager
def _mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a network into one mode, and each of its modules back into its own afterwards."""
    modes = {one: one.training for one in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for one, mode in modes.items():
            one.training = mode


def _blank_images(module: nn.Module, image_size: int) -> torch.Tensor:
    like = next(module.parameters())
    return torch.zeros(_DRY_BATCH, 3, image_size, image_size, dtype=like.dtype, device=like.device)


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_holds_tensor(one) for one in value)
    return isinstance(value, torch.Tensor)


def _pieces(values: Iterable[Any]) -> dict[Any, int]:
    """Return weak references to the pieces of memory behind tensors, each once, with their bytes."""
    reference: Any = StorageWeakRef
    tensors = [one for one in pytree.tree_leaves([*values]) if isinstance(one, torch.Tensor)]
    return {reference(tensor.untyped_storage()): tensor.untyped_storage().nbytes() for tensor in tensors}


def _size(value: Any, graph: fx.Graph, x: fx.Node) -> Any:
    """Return a size of the dry run as an argument in a section's graph: multiples of the batch follow that of `x`."""
    if isinstance(value, tuple | list):
        return tuple(_size(one, graph, x) for one in value)
    if type(value) is int and value and value % _DRY_BATCH == 0:
        return graph.call_function(operator.mul, (graph.call_method("size", (x, 0)), value // _DRY_BATCH))
    return value


def _operation(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", ""))


def _prefix_tokens(module: nn.Module) -> int:
    count = getattr(module, "num_prefix_tokens", None)
    return int(_has_class_token(module)) if count is None else int(count)


def _has_class_token(module: nn.Module) -> bool:
    return any(getattr(module, name, None) is not None for name in ("class_token", "cls_token"))


def _share(network: nn.Module, section: nn.Module, path: str) -> None:
    """Give `section` the module, parameter or buffer that `network` has at `path`, under the same path."""
    *parents, name = path.split(".")
    source, target = network, section
    for parent in parents:
        source = getattr(source, parent)
        if not hasattr(target, parent):
            container = nn.Module()
            container.training = network.training
            setattr(target, parent, container)
        target = getattr(target, parent)
    value = getattr(source, name)
    if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
        persistent = name in source.state_dict(keep_vars=True)
        if getattr(target, name, None) is not value:
            target.register_buffer(name, value, persistent=persistent)
    else:
        setattr(target, name, value)


def _prefixes(module: nn.Module, chosen: set[str], path: str = "") -> tuple[str, ...]:
    """Return the shortest prefixes that stand for exactly the parameters `chosen`."""
    prefixes = [f"{path}{name}" for name, _ in module.named_parameters(recurse=False) if f"{path}{name}" in chosen]
    for name, child in module.named_children():
        inside = {f"{path}{name}.{parameter}" for parameter, _ in child.named_parameters()}
        if inside and inside <= chosen:
            prefixes.append(f"{path}{name}")
        elif inside & chosen:
            prefixes.extend(_prefixes(child, chosen, f"{path}{name}."))
    return tuple(prefixes)


def _is_inside(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")


def _paths(path: str) -> list[str]:
    """Return ``a``, ``a.b``, ``a.b.c`` for ``a.b.c``; nothing for an empty path."""
    return list(accumulate(path.split("."), lambda above, name: f"{above}.{name}")) if path else []


def _inside(module: str, layers: Iterable[str]) -> list[str]:
    return [layer for layer in layers if _is_inside(layer, module)]


def _children(module: str, layers: Iterable[str]) -> list[str]:
    """Return the direct children of `module` that hold any of `layers`, in the order of `layers`."""
    depth = len(module.split(".")) if module else 0
    paths = (_paths(layer) for layer in layers if not module or _is_inside(layer, module))
    return list(dict.fromkeys(steps[depth] for steps in paths if len(steps) > depth))

"""Where a network can be cut in two, found on its graph, and the two parts as modules.

Walking the steps of a network (see `tracing`) in order, the set of values that later ones still need is known after
every step; where the only one is the step's own output, exactly one tensor crosses, and the step is a *cut*. Only
tensors computed from the image count: sizes, and tensors made of parameters alone (position tables), are worked out
again in the part that needs them.

A trace bakes the mode in, so every network is traced in both modes, a cut is a cut in both, and a section chooses the
graph of its own mode.

What a cut's output is pooled to is `pooling`'s business; that what does not train stays as it is, `freezing`'s.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal

from torch import fx, nn

from cache.errors import UsageError, suggestion
from stages.config.image_size import ImageSize, shape_of_size
from stages.network.classifier import output_layers
from stages.network.freezing import frozen_layers
from stages.network.graph.section import Section
from stages.network.graph.trace import Trace
from stages.network.graph.trace import check_image_size as check_image_size
from stages.network.module_paths import ancestor_paths, children, has_prefix, shortest_prefixes

Layout = Literal["vector", "nchw", "nhwc", "tokens"]


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

    @property
    def places(self) -> int:
        """How many places in the image it has numbers of; 1 for a vector."""
        return 1 if self.layout == "vector" else math.prod(self.shape) // self.channels

    @property
    def channels(self) -> int:
        """How many numbers it has of each place."""
        return self.shape[0] if self.layout in ("vector", "nchw") else self.shape[-1]


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

    def __init__(self, module: nn.Module, image_size: ImageSize) -> None:
        self.module = module
        self.image_size = image_size
        self._trace = Trace(module, image_size, training=False)
        self._training_trace = Trace(module, image_size, training=True, reference_trace=self._trace)

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """Every cut, from the image to the logits."""
        return tuple(self._cut_at.values())

    @cached_property
    def tensors(self) -> tuple[Cut, ...]:
        """Every tensor with a row for each image that can be pooled, from the image to the logits, cuts among them.

        Where several tensors cross, what a cut says of the parameters above holds of none: others are still needed.
        """
        return tuple(
            self._cut_at.get(node) or self._describe(node, layout, "") for node, layout in self._layouts.items()
        )

    @cached_property
    def _cut_at(self) -> dict[fx.Node, Cut]:
        nodes = [node for node in self._layouts if self._is_crossed_alone(node)]
        aliases = self._aliases(nodes)
        return {node: self._describe(node, self._layouts[node], aliases.get(node, "")) for node in nodes}

    @cached_property
    def _layouts(self) -> dict[fx.Node, Layout]:
        """What the dimensions of each node's output mean, of those that are rows of images which pool."""
        layouts: dict[fx.Node, Layout] = {}
        latest_map: tuple[Layout, int] = ("nchw", max(shape_of_size(self.image_size)))
        for node in self._trace.nodes[1:-1]:
            layout = self._layout(node, *latest_map)
            if layout is not None:
                layouts[node] = layout
            if layout in ("nchw", "nhwc") and self._is_crossed_alone(node):
                latest_map = (layout, self._trace.shape(node)[1])
        return layouts

    def _is_crossed_alone(self, node: fx.Node) -> bool:
        name = self._trace.names[node]
        return self._trace.crosses_alone(name) and self._training_trace.crosses_alone(name)

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks of the main sequence, from the image upwards, without the output layer.

        Blocks are the network's children that hold the weights of convolutions or linear layers. While there are
        fewer than four, the one with most layers is replaced by its own children: ``features`` becomes
        ``features.0``, ``features.1``, ..., and a ResNet stays ``conv1``, ``layer1``, ... ``layer4``.
        """
        layers = [layer for node in self._below_classifier() for layer in self._weighted_layers(node)]
        blocks = children("", layers)
        while len(blocks) < 4:
            layers_by_block = {block: [layer for layer in layers if has_prefix(layer, (block,))] for block in blocks}
            sizes = {block: len(layers_by_block[block]) for block in blocks if children(block, layers)}
            if not sizes:
                break
            largest = max(sizes, key=lambda block: sizes[block])
            index = blocks.index(largest)
            blocks[index : index + 1] = children(largest, layers)
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
        inner_cuts = [
            cut for cut in self.cuts if has_prefix(self._owner_module(self._trace.by_name[cut.name]), (name,))
        ]
        if inner_cuts:
            return inner_cuts[-1]
        raise self._not_a_cut_error(name)

    def section(
        self,
        start: Cut | None,
        end: Cut | None,
        trainable: Collection[str] | None = None,
        branches: Mapping[str, tuple[Cut, nn.Module]] | None = None,
        *,
        outputs: Sequence[Cut] = (),
        folded: bool = False,
    ) -> Section:
        """Return the part of the network from the output of `start` to the output of `end`.

        ``section(None, cut)`` is the trunk, ``section(cut, None)`` the top. The section holds only the submodules it
        needs, under their paths in the network, so that its state_dict has the network's names. Its mode is its own:
        call ``train()`` and ``eval()`` on the section. It takes any batch size and leaves its input as it is.

        Parameters
        ----------
        start, end
            Cuts; None is the image, or the logits.
        trainable
            Prefixes of what trains, for a section in which other layers are frozen. In training mode, too, those
            compute as in evaluation, also where their mode is part of the graph (functional dropout, timm's stochastic
            depth). Nothing is frozen by this: give the section to :func:`~stages.network.freezing.freeze`.
        branches
            Modules that take what crosses at cuts on the way, above `start` and not above `end`. They are in the
            section under the names given. In training mode the section returns what they make of it, too.
        outputs
            Cuts on the way, above `start` and below `end`, whose outputs are given too, in either mode: the section
            returns a tuple, these in their order and that of `end` last.
        folded
            Whether to train it by quicker ways to the same sums, equal to within rounding and not bit by bit: see
            :func:`~stages.network.graph.bn_folding.fold_while_training`.

        Raises
        ------
        UsageError
            If `end` is below `start`.
        """
        ends, branches = self._ends(start, end), branches or {}
        names = [cut.name for cut in outputs]
        in_training = self._training_trace if trainable is None else self._partly_frozen_trace(trainable)
        taps = [(name, cut.name) for name, (cut, _) in branches.items()]
        graphs = {
            False: self._trace.section(*ends, outputs=names),
            True: in_training.section(*ends, taps, names),
        }
        return Section(self.module, graphs, {name: branch for name, (_, branch) in branches.items()}, folded=folded)

    def is_between(self, start: Cut | None, cut: Cut, end: Cut | None) -> bool:
        """Say whether a cut lies above `start` (None: the image) and not above `end` (None: the logits)."""
        above_start = start is None or self._position(start) < self._position(cut)
        return above_start and (end is None or self._position(cut) <= self._position(end))

    def evaluation_section(self, start: Cut | None, end: Cut | None) -> fx.GraphModule:
        """Return what :meth:`section` computes in evaluation mode, with its graph, for those who rewrite it.

        It shares the network's modules and parameters, as sections do.
        """
        return fx.GraphModule(self.module, self._trace.section(*self._ends(start, end)))

    def evaluation_taps(self, taps: Mapping[str, tuple[Cut, nn.Module]]) -> fx.GraphModule:
        """Return the network up to the deepest of some tensors, giving a tuple of what modules make of them.

        It shares the network's modules and parameters, as :meth:`evaluation_section` does.

        Parameters
        ----------
        taps
            One of :attr:`tensors` and the module that takes it, by the names the modules get in the result.
        """
        graph = self._trace.tapped([(name, tensor.name) for name, (tensor, _) in taps.items()])
        modules = {name: module for name, (_, module) in taps.items()}
        root = {
            str(node.target): modules.get(str(node.target)) or operator.attrgetter(str(node.target))(self.module)
            for node in graph.nodes
            if node.op in ("call_module", "get_attr")
        }
        return fx.GraphModule(root, graph)

    def projected_between(self, start: Cut | None, end: Cut) -> Cut | None:
        """Return what the last layer with weights between two cuts takes, if that is computed between them.

        Of an inverted residual block that is the expanded activation, of a transformer's block that inside its MLP.
        Left out is what is narrower than `end`, a vector, or of one place where `end` has many (of a block's gate).
        """
        first_step = self._position(start) + 1 if start else 1
        for node in reversed(self._trace.nodes[first_step : self._position(end) + 1]):
            if not self._weighted_layers(node):
                continue
            source = node.all_input_nodes[0]
            if self._trace.position[source] < first_step or source not in self._layouts:
                continue
            tensor = self._cut_at.get(source) or self._describe(source, self._layouts[source], "")
            has_places = tensor.layout != "vector" and (tensor.places > 1 or end.places == 1)
            if has_places and tensor.channels >= end.channels:
                return tensor
        return None

    def tensors_inside(self, matches: Callable[[str], bool]) -> list[Cut]:
        """Return the tensors whose names match, and the last tensor inside each module whose path does."""
        found: dict[fx.Node, None] = {}
        last_inside: dict[str, fx.Node] = {}
        for node in self._layouts:
            if matches(self._trace.names[node]):
                found[node] = None
            last_inside |= dict.fromkeys(ancestor_paths(self._owner_module(node)), node)
        found |= dict.fromkeys(node for path, node in last_inside.items() if matches(path))
        return [self._cut_at.get(node) or self._describe(node, self._layouts[node], "") for node in found]

    def peak_activation_bytes(self, cut: Cut) -> int:
        """Return the most bytes that one image's activations in float32 take at any time on the way to `cut`.

        These are the outputs that a later step of the graph needs, and the tensors that the running step makes; views
        and what is written in place take none of their own. Work space inside the kernels is not counted.
        """
        return self._trace.peak_bytes(cut.name)

    def parameters_between(self, start: Cut | None, end: Cut | None) -> dict[str, nn.Parameter]:
        """Return the parameters that the steps above `start`, up to and including `end`, compute with, by their names.

        Cuts that follow each other divide the network's parameters among them, but for layers that are used twice.
        """
        first_step = self._position(start) + 1 if start else 0
        stop = self._position(end) + 1 if end else None
        return {name: value for node in self._trace.nodes[first_step:stop] for name, value in self._parameters(node)}

    def _ends(self, start: Cut | None, end: Cut | None) -> tuple[str | None, str | None]:
        """Return the names of the nodes where a section starts and ends."""
        if start is not None and end is not None and self._position(end) < self._position(start):
            raise UsageError(
                f"No section goes from {start.name!r} up to {end.name!r}: the second lies below the first."
            )
        return (start.name if start else None, end.name if end else None)

    def boundary(self, unfreeze: str, *, invert: bool = False) -> Boundary:
        """Return where the frozen part ends when `unfreeze` trains.

        Parameters
        ----------
        unfreeze
            ``all``; the name of a layer or a cut (it and everything above it trains); a number n (the top n of
            :attr:`blocks`, and everything above them); or several names with commas between (just these layers train,
            wherever they lie; one alone has a comma behind it: ``layer3,``).
        invert
            Train exactly what would have been frozen, and freeze the rest.

        Raises
        ------
        UsageError
            If there is no such layer, or not that many blocks, or nothing is left to train.
        """
        named_parameters, first = self._chosen(unfreeze)
        all_names = [name for name, _ in self.module.named_parameters()]
        trained = {*all_names} - named_parameters if invert else named_parameters
        if not trained:
            if invert:
                raise UsageError(
                    f"`unfreeze` {unfreeze} with `invert_unfreeze` leaves nothing to train: without it, everything "
                    "trains. Name a higher layer, or leave out `invert_unfreeze`."
                )
            raise UsageError(f"`unfreeze` {unfreeze} leaves nothing to train: no parameters lie there or above.")
        # Layers that are named begin with what stands before their parameters, such as dropout.
        begin = self._first_use(trained)
        begin = begin if invert else min(begin, first)
        below = [cut for cut in self.cuts if self._position(cut) < begin]
        return Boundary(below[-1] if below else None, shortest_prefixes(all_names, trained))

    def _chosen(self, unfreeze: str) -> tuple[set[str], int]:
        """Return the parameters that `unfreeze` stands for, and where the first of its layers begins."""
        all_names = {name for name, _ in self.module.named_parameters()}
        if unfreeze == "all":
            return all_names, 0
        names = [name.strip() for name in unfreeze.split(",") if name.strip()]
        if not names:
            raise UsageError(f"`unfreeze` {unfreeze!r} names no layer; give a layer, a number of blocks, or all.")
        if "," in unfreeze:
            parameters = [self._parameters_of(name) for name in names]
            return set[str]().union(*parameters), min(self._first_step(name) for name in names)
        layer = self._nth_block_from_top(int(names[0])) if names[0].isdecimal() else names[0]
        first = self._first_step(layer)
        nodes = self._trace.nodes
        below = {name for node in nodes[:first] for name, _ in self._parameters(node)}
        above = {name for node in nodes[first:] for name, _ in self._parameters(node)}
        return above - below, first

    def _parameters_of(self, layer: str) -> set[str]:
        """Return the parameters of a layer, or of the step that is called so.

        Raises
        ------
        UsageError
            If it has none.
        """
        parameters = {name for name, _ in self.module.named_parameters() if has_prefix(name, (layer,))}
        if not parameters and (node := self._trace.by_name.get(layer)) is not None:
            parameters = {name for name, _ in self._parameters(node)}
        if not parameters and (layer in self._layer_names() or layer in self._trace.by_name):
            raise UsageError(f"`unfreeze`: {layer!r} has no parameters, so there is nothing in it to train.")
        if not parameters:
            raise self._unknown_layer(layer)
        return parameters

    def _first_step(self, layer: str) -> int:
        """Return the position of the first node that runs in a layer, is called so, or uses its parameters."""
        inner_nodes = [node for node in self._nodes_inside(layer) if node.op != "get_attr"]
        if inner_nodes:
            return self._trace.position[inner_nodes[0]]
        begin = self._first_use({name for name, _ in self.module.named_parameters() if has_prefix(name, (layer,))})
        if begin == len(self._trace.nodes) and layer in self._layer_names():
            raise UsageError(f"`unfreeze`: {layer!r} does not run in evaluation mode. See the command `list-cuts`.")
        if begin == len(self._trace.nodes):
            raise self._unknown_layer(layer)
        return begin

    def _first_use(self, parameters: set[str]) -> int:
        """Return the position of the first node that uses any of the parameters; behind the last if none does."""
        nodes = self._trace.nodes
        uses = (
            position
            for position, node in enumerate(nodes)
            if any(name in parameters for name, _ in self._parameters(node))
        )
        return next(uses, len(nodes))

    def _unknown_layer(self, name: str) -> UsageError:
        nearest = suggestion(name, [*self._layer_names(), *(cut.name for cut in self.cuts)])
        instead = nearest or f" Its blocks are {', '.join(self.blocks)}."
        return UsageError(f"`unfreeze`: this network has no layer {name!r}.{instead} See the command `list-cuts`.")

    def _main_cuts(self) -> list[str]:
        """Return the blocks that end with a cut, and the automatic one."""
        return [*(cut.alias for cut in self.cuts if cut.alias in self.blocks), "auto"]

    def _layer_names(self) -> list[str]:
        return [path for path, _ in self.module.named_modules() if path]

    def _partly_frozen_trace(self, trainable: Collection[str]) -> Trace:
        frozen = frozen_layers(self.module, trainable)
        return Trace(self.module, self.image_size, training=True, frozen=frozen, reference_trace=self._training_trace)

    def _nth_block_from_top(self, count: int) -> str:
        if not 1 <= count <= len(self.blocks):
            raise UsageError(
                f"`unfreeze` {count}: this network has {len(self.blocks)} blocks ({', '.join(self.blocks)}); "
                f"give a number from 1 to {len(self.blocks)}, the name of a layer, or all."
            )
        return self.blocks[-count]

    def _layout(self, node: fx.Node, map_layout: Layout, map_side: int) -> Layout | None:
        """Return what the dimensions of a node's output mean, or None if they are no row per image that pools.

        `map_layout` and `map_side` are those of the latest map below; maps never grow on the way to a classifier, so
        that three sides of which two are equal, but longer than that, are windows of tokens and no map.
        """
        if not self._trace.has_row_per_image(node):
            return None
        shape = self._trace.shape(node)
        layout = layout_of(shape, map_layout, shape_of_size(self.image_size))
        if layout in ("nchw", "nhwc") and shape[1] > map_side:
            return None
        return None if layout == "tokens" and self._is_flattened_map(node) else layout

    def _is_flattened_map(self, node: fx.Node) -> bool:
        """Say whether a node's three dimensions are [b, C, H * W] and not tokens [b, N, C]."""
        if not node.all_input_nodes:
            return False
        source = node.all_input_nodes[0]
        shape, below, operation = self._trace.shape(node), self._trace.shape(source), _operation(node)
        if operation in _TRANSPOSING and len(below) == 2:
            return not self._is_flattened_map(source)
        return operation in _FLATTENING and len(below) == 3 and shape == (below[0], below[1] * below[2])

    def _aliases(self, nodes: list[fx.Node]) -> dict[fx.Node, str]:
        """Return the shortest module name for each node that is the last of `nodes` inside that module."""
        last_nodes: dict[str, fx.Node] = {}
        for node in nodes:
            for path in ancestor_paths(self._owner_module(node)):
                last_nodes[path] = node
        aliases: dict[fx.Node, str] = {}
        for path, node in sorted(last_nodes.items(), key=lambda entry: entry[0].count(".")):
            if path != self._trace.names[node]:
                aliases.setdefault(node, path)
        return aliases

    def _describe(self, node: fx.Node, layout: Layout, alias: str) -> Cut:
        trace = self._trace
        name, position = trace.names[node], trace.position[node]
        shape = trace.shape(node)
        parameters, multiply_adds = self._parameters_up_to, self._multiply_adds_up_to
        prefix = _prefix_tokens(self.module) if layout == "tokens" else 0
        prefix = prefix if is_grid(shape[0] - prefix, shape_of_size(self.image_size)) else 0
        return Cut(
            name,
            alias,
            shape,
            layout,
            parameters[position],
            parameters[-1] - parameters[position],
            multiply_adds[position],
            multiply_adds[-1] - multiply_adds[position],
            prefix,
            class_token=prefix > 0 and _has_class_token(self.module),
        )

    @cached_property
    def _parameters_up_to(self) -> list[int]:
        seen: set[str] = set()
        counts = []
        for node in self._trace.nodes:
            new_parameters = {name: parameter for name, parameter in self._parameters(node) if name not in seen}
            seen.update(new_parameters)
            counts.append(sum(parameter.numel() for parameter in new_parameters.values()))
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
        output_positions = (
            index for index, node in enumerate(nodes) if {*outputs}.intersection(self._weighted_layers(node))
        )
        return nodes[: next(output_positions, len(nodes))]

    def _input_of_classifier(self) -> Cut:
        end = len(self._below_classifier())
        below = [cut for cut in self.cuts if self._position(cut) < end]
        while below and self._is_identity(self._trace.by_name[below[-1].name]):
            below.pop()
        if not below:
            raise UsageError("This network has no cut below its output layer; name the layer to cut at.")
        return below[-1]

    def _is_identity(self, node: fx.Node) -> bool:
        """Say whether a node does nothing in evaluation mode."""
        if node.op == "call_module":
            return isinstance(self.module.get_submodule(str(node.target)), _PASSING)
        return node.target is nn.functional.dropout

    def _owner_module(self, node: fx.Node) -> str:
        """Return the path of the module in whose forward a node runs; of the module itself if the node calls one."""
        return str(node.target) if node.op == "call_module" else self._trace.names[node].rpartition(".")[0]

    def _nodes_inside(self, layer: str) -> list[fx.Node]:
        nodes = self._trace.nodes
        inner_nodes = [node for node in nodes if has_prefix(self._owner_module(node), (layer,))]
        return inner_nodes or [node for node in nodes if self._trace.names[node] == layer]

    def _position(self, cut: Cut) -> int:
        return self._trace.position[self._trace.by_name[cut.name]]

    def _not_a_cut_error(self, name: str) -> UsageError:
        """Return the error for a layer that holds no cut, or that does not exist."""
        nodes = self._nodes_inside(name)
        modules = self._layer_names()
        if not nodes and name not in modules:
            known = [*modules, *(cut.name for cut in self.cuts), "auto"]
            instead = suggestion(name, known) or f" It can be cut at {', '.join(self._main_cuts())} and between them."
            return UsageError(f"This network has no layer {name!r}.{instead} See the command `list-cuts`.")
        if not nodes:
            holders = [path for path in ancestor_paths(name) if path in self._trace.by_name]
            reason = f"runs inside {holders[0]!r}, which is one step" if holders else "does not run in evaluation mode"
            return UsageError(f"{name!r} is no cut: it {reason}. See the command `list-cuts` for those there are.")
        trace = self._trace
        last_position = trace.position[nodes[-1]]
        still_needed = [trace.names[node] for node in trace.live_values[last_position] if node is not nodes[-1]]
        obstacle = (
            f"besides its output, that of {' and '.join(map(repr, still_needed[:3]))} is still needed above it "
            "(it lies in a residual or parallel branch)"
            if still_needed
            else "its output is neither a vector, a map nor tokens with one row per image"
        )
        below = [cut.name for cut in self.cuts if self._position(cut) < trace.position[nodes[0]]][-1:]
        above = [cut.name for cut in self.cuts if self._position(cut) > last_position][:1]
        nearest = [f"{cut_name!r} {side}" for cuts, side in ((below, "below"), (above, "above")) for cut_name in cuts]
        return UsageError(f"{name!r} is no cut: {obstacle}. Nearest cuts: {' and '.join(nearest)}.")


def layout_of(
    shape: tuple[int, ...], ambiguous: Layout = "nchw", image_shape: tuple[int, int] = (1, 1)
) -> Layout | None:
    """Return the layout of a row of this shape; None if it is neither vector, tokens nor a map of such an image.

    A map has the proportions of its image: of a square one, the two equal sides are height and width. `ambiguous` is
    the answer where both readings are right, as for a cube.
    """
    if len(shape) == 1:
        return "vector"
    if len(shape) == 2:
        return "tokens"
    if len(shape) != 3:
        return None
    is_nchw, is_nhwc = (_has_proportions(sides, image_shape) for sides in (shape[1:], shape[:2]))
    if is_nchw and is_nhwc:
        return ambiguous
    if is_nchw:
        return "nchw"
    return "nhwc" if is_nhwc else None


def is_grid(patches: int, image_shape: tuple[int, int]) -> bool:
    """Return whether so many patches may be the rows and columns of an image."""
    height, width = image_shape
    rows = round(math.sqrt(max(patches, 0) * height / width))
    return rows > 0 and patches % rows == 0 and _has_proportions((rows, patches // rows), image_shape)


def _has_proportions(sides: tuple[int, ...], image_shape: tuple[int, int]) -> bool:
    """Return whether a map may be that of an image: each side was divided by the same stride, and rounded."""
    (rows, columns), (height, width) = sides, image_shape
    if height == width:
        return rows == columns
    # strides are powers of two, as a rule, and each halving rounds up or down: less than two places in all
    return abs(rows * width - columns * height) < 2 * max(height, width)


def _operation(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", ""))


def _prefix_tokens(module: nn.Module) -> int:
    count = getattr(module, "num_prefix_tokens", None)
    return int(_has_class_token(module)) if count is None else int(count)


def _has_class_token(module: nn.Module) -> bool:
    return any(getattr(module, name, None) is not None for name in ("class_token", "cls_token"))

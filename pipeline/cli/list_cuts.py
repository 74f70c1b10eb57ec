"""``list-cuts``: where a backbone can be cut, what of it trains, and what of a file of weights was loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from cache.errors import UsageError
from pipeline.cli.flags import Cut
from stages.config.features import FeatureConfig
from stages.config.image_size import size_in_words

if TYPE_CHECKING:
    from stages.network.backbones.partial_loading import PartialLoading
    from stages.network.graph.cuts import Boundary, CutGraph

_SEVERAL = Parameter(consume_multiple=True, negative_iterable=())


def list_cuts(
    backbone: str,
    /,
    *,
    weights: Annotated[
        str, Parameter(help="default, none, or a state_dict file; the table needs no weights.")
    ] = "none",
    weights_match: Literal["exact", "partial"] = "exact",
    weights_rename: Annotated[tuple[str, ...], _SEVERAL] = (),
    weights_ignore: Annotated[tuple[str, ...], _SEVERAL] = (),
    image_size: int | str | None = None,
    taps: str = "",
    pool: str = FeatureConfig.pool,
    unfreeze: str | None = None,
    invert_unfreeze: bool = False,
) -> list[Cut]:
    """List every layer a backbone can be cut at, from the image upwards, and what trains.

    For each cut: its name and alias (either can be given to --cut), the shape of its output for one image,
    parameters and multiply-adds below and above it, and the bytes one image takes in the cache as float16.
    With --taps: what is taken instead, tensor by tensor, with its kind, its poolings and how many numbers they are.
    With --unfreeze: whether what lies between it and the cut before it trains, is frozen, or partly trains.

    Try:

    ```sh
    cutonce list-cuts resnet18
    cutonce list-cuts timm:convnext_nano --image-size 288
    cutonce list-cuts resnet18 --taps all --pool avg,max,std
    cutonce list-cuts resnet18 --unfreeze layer2,layer4
    cutonce list-cuts resnet18 --weights mine.pth --weights-match partial --weights-rename encoder=
    ```

    Parameters
    ----------
    backbone
        Pretrained network, as after --backbone of the other commands.
    weights_match
        exact, or partial: the file is loaded from the image upwards until the first layer that differs, and a table
        says what was loaded, skipped and missing.
    weights_rename
        Prefixes of the names in the file that are exchanged, each OLD=NEW; backbone= takes one off.
    weights_ignore
        Prefixes of names that are not loaded, and that neither file nor network needs to have.
    image_size
        Side of the square the network sees, in pixels (default: the backbone's own).
    taps
        last, stages, blocks, all, or patterns of names, as after --taps of the other commands.
    pool
        Poolings of the taps, with commas between.
    unfreeze
        What trains: the name of a layer (it and all above it), several with commas between (just these; layer3, is
        one alone), a number of top blocks, all, or head (alone). The head, which takes the place of the output layer,
        trains always.
    invert_unfreeze
        Train what --unfreeze would freeze, and freeze the rest.
    """
    from pipeline.cli.output import echo
    from pipeline.text import byte_count, format_count, table
    from stages.network.backbones.registry import load_backbone
    from stages.network.graph.hooked import HookedGraph, cut_graph

    if invert_unfreeze and unfreeze is None:
        raise UsageError("--invert-unfreeze says what of --unfreeze is inverted; give --unfreeze too")
    loaded = load_backbone(
        backbone, weights, image_size, match=weights_match, rename=weights_rename, ignore=weights_ignore
    )
    graph = cut_graph(loaded.module, loaded.preprocessing.image_size)
    if taps:
        return _list_taps(loaded.name, graph, FeatureConfig(taps=taps, pool=pool))
    automatic = "" if isinstance(graph, HookedGraph) else graph.resolve("auto").name
    header = ["cut", "alias", "output", "parameters below", "above", "multiply-adds below", "above", "fp16 bytes/image"]
    lines = [
        [
            cut.name + ("  (auto)" if cut.name == automatic else ""),
            cut.alias,
            "x".join(map(str, cut.shape)),
            format_count(cut.parameters_below),
            format_count(cut.parameters_above),
            format_count(cut.multiply_adds_below),
            format_count(cut.multiply_adds_above),
            byte_count(cut.bytes_per_image),
        ]
        for cut in graph.cuts
    ]
    size = loaded.preprocessing.image_size
    messages = [f"{loaded.name}: {len(graph.cuts)} cuts at {size_in_words(size)} pixels"]
    if isinstance(graph, HookedGraph):
        messages.append(graph.note("a cut"))
    if weights != "none":
        messages.append(f"weights: {loaded.weights_source}")
    if loaded.loading is not None:
        messages += [*_what_was_loaded(loaded.loading), ""]
    if unfreeze is not None:
        from stages.finetuning.transfer_model import HEAD
        from stages.network.graph.cuts import Boundary

        head_at = None if isinstance(graph, HookedGraph) else graph.resolve("auto")
        if unfreeze == HEAD and head_at is not None and not invert_unfreeze:
            boundary = Boundary(head_at, ())
        else:
            boundary = graph.boundary(unfreeze, invert=invert_unfreeze)
        messages.append(_what_trains(graph, boundary, head_at))
        header.insert(3, "training")
        states = _states(graph, boundary, head_at)
        lines = [[*line[:3], state, *line[3:]] for line, state in zip(lines, states, strict=True)]
    echo(*messages, "", table(header, lines, left=header.index("parameters below")))
    return list(graph.cuts)


def _list_taps(backbone: str, graph: CutGraph, options: FeatureConfig) -> list[Cut]:
    from pipeline.cli.output import echo
    from pipeline.text import byte_count, table
    from stages.network.graph.tap_places import find_taps, layout_of_taps

    places = find_taps(graph, options.taps, options.pool.split(","))
    layout = layout_of_taps(places)
    lines = [
        [
            place.tensor.name,
            place.kind,
            "x".join(map(str, place.tensor.shape)),
            ",".join(pool.kind for pool in place.pools),
            f"{sum(block.width for block in place.blocks):,}",
        ]
        for place in places
    ]
    sets = [f"{word} {layout.select(names).width:,}" for word, names in layout.depth_sets().items()]
    echo(
        f"{backbone}: {len(places)} tensors give {layout.width:,} numbers an image, {byte_count(2 * layout.width)} in "
        f"fp16, in one pass ({', '.join(sets)})",
        "",
        table(["tap", "kind", "output", "pool", "numbers"], lines, left=4),
    )
    return [place.tensor for place in places]


def _what_was_loaded(loading: PartialLoading) -> Iterator[str]:
    from pipeline.text import table

    yield f"layers in {loading.order}"
    yield f"the first that differs: {loading.difference or 'none'}"
    lines = [[line.state, _shortened(line.layers), line.why, str(line.tensors)] for line in loading.lines]
    yield table(["", "layers", "why", "tensors"], lines, left=3)


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names if len(names) <= 8 else [*names[:4], "...", *names[-3:]])


def _states(graph: CutGraph, boundary: Boundary, head_at: Cut | None) -> Iterator[str]:
    """Yield for each cut whether the layers between the one before and itself train; nothing where there are none."""
    from stages.network.module_paths import has_prefix

    for previous, cut in zip((None, *graph.cuts), graph.cuts, strict=False):
        names = graph.parameters_between(previous, cut)
        if names and head_at is not None and not graph.is_between(None, cut, head_at):
            yield "new head"
            continue
        trains = {has_prefix(name, boundary.trainable) for name in names}
        yield {(): "", (False,): "frozen", (True,): "trains"}.get(tuple(trains), "partly")


def _what_trains(graph: CutGraph, boundary: Boundary, head_at: Cut | None) -> str:
    """Say it of what lies below the head, whose size depends on what it is to tell apart."""
    from pipeline.text import format_count
    from stages.network.module_paths import has_prefix

    above = set() if head_at is None else set(graph.parameters_between(head_at, None))
    parameters = {name: value.numel() for name, value in graph.module.named_parameters() if name not in above}
    trained = {name: size for name, size in parameters.items() if has_prefix(name, boundary.trainable)}
    count, total = sum(trained.values()), sum(parameters.values())
    share = f"{format_count(count)} of {format_count(total)} parameters ({count / total:.1%}) train"
    layers = [layer for layer in boundary.trainable if any(has_prefix(name, (layer,)) for name in trained)]
    below = f"the frozen part ends at {boundary.cut.name}" if boundary.cut else "training begins at the image"
    if head_at is None:
        return f"{share}: {', '.join(layers)}; {below}"
    named = f": {', '.join(layers)}" if layers else ""
    return f"below the head {share}{named}; {below}; the head is new, and trains always"

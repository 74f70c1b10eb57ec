"""The table behind the command `layers`: every cut of a network with what it costs (T2). Printing is the command's."""

from __future__ import annotations

from typing import TypedDict

from stages.network.cut import CutGraph, Layout


class LayerRow(TypedDict):
    """One cut; see :class:`stages.network.cut.Cut` for what the columns mean."""

    name: str
    alias: str
    shape: tuple[int, ...]
    layout: Layout
    parameters_below: int
    parameters_above: int
    multiply_adds_below: int
    multiply_adds_above: int
    bytes_per_image: int


def layer_table(graph: CutGraph) -> list[LayerRow]:
    """Return a row for each cut, from the image to the logits."""
    return [
        LayerRow(
            name=cut.name,
            alias=cut.alias,
            shape=cut.shape,
            layout=cut.layout,
            parameters_below=cut.parameters_below,
            parameters_above=cut.parameters_above,
            multiply_adds_below=cut.multiply_adds_below,
            multiply_adds_above=cut.multiply_adds_above,
            bytes_per_image=cut.bytes_per_image,
        )
        for cut in graph.cuts
    ]

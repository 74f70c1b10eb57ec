"""``layers``: where a backbone can be cut."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from pipeline.commands.signature import Cut


def layers(
    backbone: str,
    /,
    *,
    weights: Annotated[
        str, Parameter(help="default, none, or a state_dict file; the table needs no weights.")
    ] = "none",
    image_size: int | None = None,
) -> list[Cut]:
    """List every layer a backbone can be cut at, from the image upwards.

    For each cut: its name and alias (either can be given to --cut), the shape of its output for one image,
    parameters and multiply-adds below and above it, and the bytes one image takes in the cache as float16.

    Try:

    ```sh
    cutpoint layers resnet18
    cutpoint layers timm:convnext_nano --image-size 288
    ```

    Parameters
    ----------
    backbone
        efficientnet_lite0/1/2, a torchvision name, or a timm name (timm:NAME).
    image_size
        Side of the square the network sees, in pixels (default: the backbone's own).
    """
    from pipeline.console import byte_count, count, say, table
    from stages.network.backbones import load_backbone
    from stages.network.cut import CutGraph

    loaded = load_backbone(backbone, weights, image_size)
    graph = CutGraph(loaded.module, loaded.preprocessing.image_size)
    automatic = graph.resolve("auto").name
    header = ["cut", "alias", "output", "parameters below", "above", "multiply-adds below", "above", "fp16 bytes/image"]
    lines = [
        [
            cut.name + ("  (auto)" if cut.name == automatic else ""),
            cut.alias,
            "x".join(map(str, cut.shape)),
            count(cut.parameters_below),
            count(cut.parameters_above),
            count(cut.multiply_adds_below),
            count(cut.multiply_adds_above),
            byte_count(cut.bytes_per_image),
        ]
        for cut in graph.cuts
    ]
    size = loaded.preprocessing.image_size
    say(f"{loaded.name}: {len(graph.cuts)} cuts at {size} x {size} pixels", "", table(header, lines, left=3))
    return list(graph.cuts)

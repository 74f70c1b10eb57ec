"""Whether exported files answer as the runs they come from: families of networks x kinds of heads, unlike images.

::

    python benchmarks/export.py                            # the table of docs/export.md
    python benchmarks/export.py --families resnet18 --kinds linear knn --images 4       # a part of it
    python benchmarks/export.py --speed --images 64        # images/s of the ONNX file, and of our own predict

Networks have random weights, and heads random numbers, or rows of real features where they hold such: what is compared
is arithmetic, and nothing is downloaded. Images are drawn, waves and noise, of unlike sizes. Each cell is the
largest difference between the answers of the file and those of the run, over all images; probabilities, or numbers in
standard deviations of the target.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose cache.py is not the package

FAMILIES = {
    "resnet18": ("layer2,layer3", "layer4"),
    "efficientnet_lite0": ("blocks.3,blocks.4", "blocks.6"),
    "mobilenetv3_small_100": ("blocks.3,blocks.4", "blocks.5"),
    "convnext_atto": ("stages.1,stages.2", "stages.3"),
    "vit_tiny_patch16_224": ("blocks.3,blocks.8", "blocks.11"),
    "swin_tiny_patch4_window7_224": ("layers.1,layers.2", "layers.3"),
}
"""Networks, two cuts whose features are joined, and one whose map is taken."""

IMAGE_SIZE = {"vit_tiny_patch16_224": 224, "swin_tiny_patch4_window7_224": 224}
VECTORS = ("linear", "labels", "numbers", "mlp", "cosine", "knn", "rbf", "ensemble", "stacked", "projected", "flip")
OTHERS = (
    "cuts",
    "taps",
    "attention",
    "multi_query",
    "columns",
    "mean",
    "concat",
    "mil",
    "gru",
    "transformer",
    "masks",
    "tuned",
)
KINDS = (*VECTORS, *OTHERS)
ON_MAPS = ("attention", "multi_query", "masks")


def make_images(folder, count, seed=0):
    """Draw images of unlike sizes; return where they are."""
    import numpy as np
    from PIL import Image

    numbers, paths = np.random.default_rng(seed), []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        height, width = (int(side) for side in numbers.integers(40, 400, 2))
        y, x = np.mgrid[:height, :width] / 40
        waves = [np.sin(x * numbers.uniform(0.2, 2) + y * numbers.uniform(-2, 2)) for _ in range(3)]
        pixels = 128 + 60 * np.stack(waves, axis=2) + numbers.normal(0, 25, (height, width, 3))
        paths.append(folder / f"{number:03}.png")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1])
    return paths


def saved_method(folder, backbone, kind, paths, image_size=64, crop_mode="center", cuts=None):
    """Save a method of a kind with random numbers, and a manifest of images, as a run does; return its folder."""
    import numpy as np
    import torch

    from pipeline.experiment.model_store import ModelCard, config_to_json, save_model
    from pipeline.run_layout import MANIFEST
    from stages.columns.encoders import CategoryEncoder, NumberEncoder
    from stages.columns.table_encoder import TableEncoder
    from stages.config.features import FeatureConfig
    from stages.config.finetune import FinetuneConfig
    from stages.data.manifest import Manifest
    from stages.data.sample import ImageRef
    from stages.extraction.extractor import build_extractor
    from stages.finetuning.transfer_model import build_transfer_model
    from stages.tasks.dense import Dense
    from stages.tasks.multi_label import MultiLabel
    from stages.tasks.regression import Regression
    from stages.tasks.single_label import SingleLabel

    joined, map_cut = cuts or FAMILIES[backbone]
    options = FeatureConfig(
        backbone=backbone,
        weights="none",
        image_size=image_size,
        crop_mode="border" if kind == "masks" else crop_mode,
        cut=joined if kind == "cuts" else map_cut if kind in ON_MAPS else "auto",
        pool="none" if kind in ON_MAPS else "avg",
        taps="stages" if kind == "taps" else "",
        cache=folder / "cache",
        device="cpu",
    )
    extractor = build_extractor(options)
    names = ["cat", "dog", "eel"]
    task = {
        "labels": MultiLabel(names, (0.4, 0.5, 0.6)),
        "numbers": Regression(("size",), (2.0,), (0.5,), log=True),
        "masks": Dense(names),
    }.get(kind, SingleLabel(names))
    columns = TableEncoder(
        (NumberEncoder("area", 3.0, 5.0, 2.0, (0.1, 0.3)), CategoryEncoder("kind", ("a", "b"), ("c",)))
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = _head(kind, extractor, task.out_features, columns, paths)
        tuned = build_transfer_model(extractor, head, FinetuneConfig(unfreeze="2")) if kind == "tuned" else None
    several = kind in ("mean", "concat", "mil", "transformer", "gru")
    card = ModelCard(
        method="finetune" if tuned else "joined" if kind == "columns" else "head",
        name=kind,
        seed=0,
        task=task.to_json(),
        features=config_to_json(options),
        weights_digest=extractor.backbone.weights,
        unfreeze="2" if tuned else None,
        identity="0",
        tta="flip" if kind == "flip" else "none",
        features_fingerprint=extractor.fingerprint,
        samples={"images": ["path", "path2"]} if several else None,
    )
    directory = folder / "seed-0" / f"{card.method}-{kind}"
    save_model(directory, card, head.eval(), tuned=tuned, columns=columns if kind == "columns" else None)
    locations, keys = [str(path) for path in paths], [f"{number:032x}" for number in range(len(paths))]
    count = len(paths)
    targets = {"labels": np.zeros((count, 3), np.float32), "numbers": np.zeros((count, 1))}
    manifest = Manifest(
        locations,
        targets.get(kind, np.zeros(count, np.int64)),
        ["test"] * count,
        keys,
        SingleLabel(names) if kind == "masks" else task,  # whose targets are not looked at
        extra={"area": [str(number % 7) for number in range(count)], "kind": ["abcd"[n % 4] for n in range(count)]},
        images=[
            (ImageRef(locations[n], keys[n]), None if n % 3 == 2 else ImageRef(locations[n - 1], keys[n - 1]))
            for n in range(count)
        ]
        if several
        else [],
    )
    manifest.save(directory.parent / MANIFEST)
    return directory


def _head(kind, extractor, outputs, columns, paths):
    """Return a head of a kind."""
    import numpy as np
    import torch

    from stages.data.sources.open_image import read_image
    from stages.network.aggregate import Aggregate
    from stages.network.heads.aggregated import AggregatedHead
    from stages.network.heads.blocks import WeightedBlocksHead
    from stages.network.heads.cosine import CosineHead
    from stages.network.heads.depths import ColumnsHead, ProjectedHead
    from stages.network.heads.ensemble import EnsembleHead, StackedHead
    from stages.network.heads.knn import KNNHead
    from stages.network.heads.linear import LinearHead
    from stages.network.heads.mil import MILHead
    from stages.network.heads.mlp import MLPHead
    from stages.network.heads.rbf import RBFHead
    from stages.network.heads.recurrent import GRUHead
    from stages.network.heads.registry import build_head
    from stages.network.heads.transformer import TransformerHead

    render = extractor.backbone.preprocessing.render
    images = torch.stack([render(read_image(str(path), extractor.reading)) for path in paths[:8]])
    parts = [extractor.features(image[None]) for image in images]
    rows = torch.cat(parts).numpy()
    if kind == "masks":
        shape = (extractor.row_numbers,)
        return LinearHead.build(shape, outputs, {"maps": extractor.map_layout.to_json()}, None)
    shape = extractor.row_shape
    if kind in ("attention", "multi_query"):
        return build_head(kind, shape, outputs)
    width, spread = shape[0], float(rows.std()) or 1.0
    linear = LinearHead(shape, outputs)
    torch.nn.init.normal_(linear.output.weight, std=1 / (spread * width**0.5))
    if kind in ("mlp", "cosine"):
        return {"mlp": MLPHead, "cosine": CosineHead}[kind](shape, outputs)
    if kind == "knn":
        return KNNHead.from_rows(rows, np.arange(len(rows)) % outputs, outputs, 3)
    rbf = RBFHead.from_support(
        rows / spread,
        np.random.default_rng(0).normal(size=(len(rows), outputs)),
        np.zeros(outputs),
        1 / width,
        np.zeros(width),
        np.full(width, spread),
    )
    if kind == "rbf":
        return rbf
    if kind == "ensemble":
        return EnsembleHead.weighted([linear, rbf, MLPHead(shape, outputs)], [0.5, 0.3, 0.2], "softmax")
    if kind == "stacked":
        return StackedHead([linear, rbf], LinearHead((2 * outputs,), outputs), "softmax", 1e-6)
    if kind == "projected":
        projection = np.random.default_rng(0).normal(size=(5, 40)) / width**0.5
        inner = ProjectedHead.from_projection(LinearHead((5,), outputs), projection)
        return ColumnsHead(inner, width, [(0, 20), (width - 20, width)])
    if kind == "columns":
        return WeightedBlocksHead(LinearHead((width + columns.width,), outputs), width)
    if kind in ("mean", "concat"):
        aggregate = Aggregate(kind, 2, width, [1] if kind == "concat" else [])
        return AggregatedHead(aggregate, LinearHead((aggregate.width,), outputs))
    bags = {"mil": MILHead, "transformer": TransformerHead, "gru": GRUHead}
    return bags[kind]((2, width + 1), outputs) if kind in bags else linear


def compare(folder, backbone, kind, paths, formats, image_size):
    """Return, by formats, the largest difference of a kind of head on a network; a text where there is no file."""
    from cache.errors import CutonceError
    from pipeline.export.equality import asked_sample, compare_with_run
    from pipeline.library.export_model import export_model
    from pipeline.run_layout import MANIFEST
    from stages.data.manifest import Manifest

    try:
        directory = saved_method(folder, backbone, kind, paths, image_size)
    except CutonceError as error:
        return dict.fromkeys(formats, f"none ({str(error)[:60]})")
    manifest, found = Manifest.load(directory.parent / MANIFEST), {}
    samples = [asked_sample(manifest, index) for index in range(len(manifest))]
    for ending in formats:

        def check(model, run_file, ending=ending):
            found[ending] = f"{compare_with_run(model, run_file, samples).difference:.1e}"

        try:
            export_model(directory, folder / f"model{ending}", "cpu", check=check)
        except CutonceError as error:
            found[ending] = f"refused ({str(error)[:90]})"
    return found


def speed(folder, backbone, paths, image_size):
    """Return images/s of the ONNX file and of our own predict; both decode, and take the cores that there are."""
    import numpy as np
    import onnxruntime
    from PIL import Image

    from pipeline.experiment.classify_images import predict_images
    from pipeline.library.export_model import export_model

    directory = saved_method(folder, backbone, "linear", paths, image_size)
    export_model(directory, folder / "model.onnx", "cpu")
    session, seconds = onnxruntime.InferenceSession(folder / "model.onnx"), {"onnx": [], "predict": []}
    for _ in range(3):
        start = time.perf_counter()
        for path in paths:
            image = np.array(Image.open(path).convert("RGB")).transpose(2, 0, 1)[None]
            session.run(None, {"images": image})
        seconds["onnx"].append(time.perf_counter() - start)
        start = time.perf_counter()
        predict_images(directory, paths, "cpu")
        seconds["predict"].append(time.perf_counter() - start)
    return {name: len(paths) / min(values) for name, values in seconds.items()}


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--formats", nargs="+", default=[".onnx", ".pt2"])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--speed", action="store_true", help="images/s in place of differences")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = make_images(folder / "images", options.images)
        if options.speed:
            print("| network | ONNX, images/s | predict, images/s | ratio |\n|---|---|---|---|")
            for family in options.families:
                rates = speed(folder / family, family, paths, 224)
                onnx, own = rates["onnx"], rates["predict"]
                print(f"| {family} | {onnx:.1f} | {own:.1f} | {onnx / own:.2f} |", flush=True)
            return
        heading = [f"{family} {ending}" for family in options.families for ending in options.formats]
        print(f"| head | {' | '.join(heading)} |\n|{'---|' * (len(heading) + 1)}")
        for kind in options.kinds:
            cells = []
            for family in options.families:
                size = IMAGE_SIZE.get(family, 64)
                found = compare(folder / f"{family}-{kind}", family, kind, paths, options.formats, size)
                cells += [found[ending] for ending in options.formats]
            print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

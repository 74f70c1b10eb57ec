"""Trained methods of every kind as a run saves them, on networks and heads with random numbers, and images to ask.

What is looked at with them is arithmetic and files: nothing is trained, nothing is downloaded.
"""

import shutil

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
VECTORS = (
    "linear",
    "labels",
    "numbers",
    "mlp",
    "cosine",
    "knn",
    "rbf",
    "ensemble",
    "stacked",
    "projected",
    "flip",
    "mirror",
)
DEPTHS = ("cuts", "taps", "attention", "multi_query", "concat-pool", "top", "tuned", "mixture")
TABLES = ("table", "columns", "joined", "bag-columns")
BAGS = ("mean", "concat", "mil", "gru", "lstm", "transformer")
MAPS = ("masks", "fcn", "lraspp", "deeplabv3")
KINDS = (*VECTORS, *DEPTHS, *TABLES, *BAGS, *MAPS)
SEVERAL = (*BAGS, "bag-columns")
"""Whose samples are of several images."""

WHOLE_MAPS = ("attention", "multi_query", "concat-pool", "top", *MAPS)

MIXED = {"linear": 0.2, "mlp": 0.3, "cuts": 0.3, "tuned": 0.2}
"""Members of a mixture with their weights: two on the same features, one on others of another size, a whole network."""


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
    if kind == "mixture":
        return _saved_mixture(folder, backbone, paths, image_size, cuts)
    import numpy as np
    import torch

    from pipeline.experiment.models.model_card import ModelCard, config_to_json
    from pipeline.experiment.models.model_store import save_model
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
    if kind == "top":  # which has blocks of its own
        map_cut = joined.split(",")[-1]
    options = FeatureConfig(
        backbone=backbone,
        weights="none",
        image_size=image_size,
        crop_mode="border" if kind in MAPS else crop_mode,
        cut=joined if kind == "cuts" else map_cut if kind in WHOLE_MAPS else "auto",
        pool="none" if kind in WHOLE_MAPS else "avg,max,std" if kind == "taps" else "avg",
        taps="stages" if kind == "taps" else "",
        mirror=kind == "mirror",
        cache=folder / "cache",
        device="cpu",
    )
    extractor = build_extractor(options)
    names = ["cat", "dog", "eel"]
    task = {
        "labels": MultiLabel(names, (0.4, 0.5, 0.6)),
        "numbers": Regression(("size",), (2.0,), (0.5,), log=True),
        **dict.fromkeys(MAPS, Dense(names)),
    }.get(kind, SingleLabel(names))
    columns = TableEncoder(
        (NumberEncoder("area", 3.0, 5.0, 2.0, (0.1, 0.3)), CategoryEncoder("kind", ("a", "b"), ("c",)))
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = _head(kind, extractor, task.out_features, columns, paths)
        tuned = build_transfer_model(extractor, head, FinetuneConfig(unfreeze="2")) if kind == "tuned" else None
    several = kind in SEVERAL
    methods = {"tuned": "finetune", "table": "columns"} | dict.fromkeys(TABLES[1:], "joined")
    card = ModelCard(
        method=methods.get(kind, "head"),
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
    save_model(directory, card, head.eval(), tuned=tuned, columns=columns if kind in TABLES else None)
    locations, keys = [str(path) for path in paths], [f"{number:032x}" for number in range(len(paths))]
    count = len(paths)
    targets = {"labels": np.zeros((count, 3), np.float32), "numbers": np.zeros((count, 1))}
    manifest = Manifest(
        locations,
        targets.get(kind, np.zeros(count, np.int64)),
        ["test"] * count,
        keys,
        SingleLabel(names) if kind in MAPS else task,  # whose targets are not looked at
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


def _saved_mixture(folder, backbone, paths, image_size, cuts):
    """Save a mean over networks of unlike sizes and depths, each with what it answers with."""
    from dataclasses import replace

    from pipeline.experiment.models.mixture_members import Member, save_members
    from pipeline.experiment.models.model_card import read_recipe
    from pipeline.experiment.models.model_store import save_card
    from pipeline.run_layout import MANIFEST

    sizes = {} if backbone in IMAGE_SIZE else {"cuts": image_size + 32}
    models = [
        saved_method(folder / kind, backbone, kind, paths, sizes.get(kind, image_size), cuts=cuts) for kind in MIXED
    ]
    directory = folder / "seed-0" / "mixture-greedy"
    members = [
        Member(model.name, weight, None, backbone, None, sizes.get(kind, image_size))
        for model, (kind, weight) in zip(models, MIXED.items(), strict=True)
    ]
    save_members(directory, members, models)
    save_card(directory, replace(read_recipe(models[0]), method="mixture", name="greedy"))
    shutil.copyfile(models[0].parent / MANIFEST, directory.parent / MANIFEST)
    for described in models[0].parent.glob("manifest.*json"):
        shutil.copyfile(described, directory.parent / described.name)
    return directory


def _head(kind, extractor, outputs, columns, paths):
    """Return a head of a kind."""
    import numpy as np
    import torch

    from stages.data.sources.open_image import read_image
    from stages.network.aggregate import Aggregate
    from stages.network.heads.aggregated import AggregatedHead
    from stages.network.heads.attention_pool import AttentionHead
    from stages.network.heads.blocks import AggregatedBlocksHead, JoinedHead, WeightedBlocksHead
    from stages.network.heads.concat_pool import ConcatHead
    from stages.network.heads.cosine import CosineHead
    from stages.network.heads.depths import ColumnsHead, ProjectedHead
    from stages.network.heads.ensemble import EnsembleHead, StackedHead
    from stages.network.heads.knn import KNNHead
    from stages.network.heads.linear import LinearHead
    from stages.network.heads.mil import MILHead
    from stages.network.heads.mlp import MLPHead
    from stages.network.heads.rbf import RBFHead
    from stages.network.heads.recurrent import GRUHead, LSTMHead
    from stages.network.heads.registry import build_head
    from stages.network.heads.transformer import TransformerHead

    render = extractor.backbone.preprocessing.render
    images = torch.stack([render(read_image(str(path), extractor.reading)) for path in paths[:8]])
    parts = [extractor.features(image[None]) for image in images]
    rows = torch.cat(parts).numpy()
    if kind in MAPS:
        name = "linear" if kind == "masks" else kind
        return build_head(name, (extractor.row_numbers,), outputs, {"maps": extractor.map_layout.to_json()})
    shape = extractor.row_shape
    if kind in ("attention", "concat-pool"):
        return {"attention": AttentionHead, "concat-pool": ConcatHead}[kind](shape, outputs)
    if kind == "multi_query":
        return build_head(kind, shape, outputs)
    if kind == "top":
        return build_head("top", shape, outputs, at=(extractor.graph, extractor.cut))
    if kind == "table":
        return LinearHead((columns.width,), outputs)
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
    if kind == "joined":
        return JoinedHead((width + columns.width,), outputs, "mlp", columns.width)
    if kind == "bag-columns":
        aggregate = Aggregate("mean", 2, width, [])
        inner = WeightedBlocksHead(LinearHead((width + columns.width,), outputs), width)
        return AggregatedBlocksHead(aggregate, inner, columns.width)
    bags = {"mil": MILHead, "transformer": TransformerHead, "gru": GRUHead, "lstm": LSTMHead}
    return bags[kind]((2, width + 1), outputs) if kind in bags else linear

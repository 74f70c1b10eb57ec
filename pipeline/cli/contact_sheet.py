"""``contact-sheet``: what an augmentation makes of training images, before anything is trained."""

from __future__ import annotations

from pathlib import Path

from cache.errors import DataError, UsageError
from pipeline.cli.flags import DataFlags, FeatureFlags
from stages.config.features import FeatureConfig

_PHOTOGRAPHS = 6
_RENDERINGS = 5


def contact_sheet(
    *, data: DataFlags, features: FeatureFlags = FeatureConfig(), mixup: float = 0.0, cutmix: float = 0.0, out: Path
) -> Path:
    """Show what the network would be given, to judge whether --augment does too little or too much. Nothing is trained.

    A row for each of some training photographs: as it is, its evaluation view, several augmented renderings, and, where
    --mixup or --cutmix is set, mixtures of renderings. Too little: the renderings hardly differ. Too much: you could
    not name the class any more.

    Try:

    ```sh
    cutonce contact-sheet --data photos/ --augment medium --out sheet.png
    cutonce contact-sheet --data photos/ --augment 'crop(0.3)+flip+rotation(30)+colorjitter(0.4)' --out sheet.png
    cutonce contact-sheet --data photos/ --augment 'rot90+flip+blur' --cutmix 1 --out sheet.png
    ```

    Parameters
    ----------
    mixup
        Alpha of mixup; 0 for none.
    cutmix
        Alpha of cutmix; 0 for none.
    out
        The PNG or SVG file, by its name; an SVG file follows light and dark.
    """
    from pipeline.cli.output import echo
    from pipeline.experiment.setup.run_setup import format_manifest, make_manifest, resolve_features
    from stages.data.augment.contact_sheet import contact_sheet as draw_sheet
    from stages.data.augment.mixup import MixupCutmix
    from stages.data.augment.policy import augmentation
    from stages.data.images.reading import reading_of
    from stages.data.images.rgb import UnreadableImageError
    from stages.data.sources.open_image import read_image
    from stages.network.backbones.registry import load_backbone

    if out.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"`out` {out}: a contact sheet is a .png or .svg file")
    mixing = MixupCutmix(mixup, cutmix) if mixup or cutmix else None
    # of the backbone, the preprocessing alone is wanted, which does not depend on the weights
    network = load_backbone(features.backbone, "none", features.image_size).with_crop_mode(features.crop_mode)
    preprocessing = network.preprocessing
    features = resolve_features(data, features)
    manifest = make_manifest(data, features, data.seeds[0], labels=False)
    echo(format_manifest(manifest))
    train = manifest.indices("train")
    photographs = []
    for index in train[:: max(len(train) // _PHOTOGRAPHS, 1)]:
        try:
            photograph = read_image(manifest.locations[index], reading_of(features))
            preprocessing.resized(photograph)  # which a strip of pixels cannot be
            photographs.append(photograph)
        except UnreadableImageError as error:
            echo(f"skipped {manifest.locations[index]}: {error.reason}")
        if len(photographs) == _PHOTOGRAPHS:
            break
    if not photographs:
        raise DataError(f"{data.data} has no training image that could be read")
    draw_sheet(
        photographs,
        augmentation(features.augment, preprocessing),
        range(_RENDERINGS),
        out,
        title=f"What the network sees with --augment {features.augment}",
        mixing=mixing,
    )
    echo(f"contact sheet: {out}")
    return out

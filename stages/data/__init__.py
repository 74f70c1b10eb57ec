"""Images and their labels: manifests, splits, sources, decoding, preprocessing, augmentation. Knows no network."""

from stages.data.augmentation import Augmentation, augmentation, contact_sheet
from stages.data.decoding import DECODER, decode, read_image
from stages.data.manifest import Manifest, load_manifest
from stages.data.photograph import UnreadableImageError
from stages.data.preprocessing import Preprocessing
from stages.data.streaming import Batch, stream

__all__ = [
    "DECODER",
    "Augmentation",
    "Batch",
    "Manifest",
    "Preprocessing",
    "UnreadableImageError",
    "augmentation",
    "contact_sheet",
    "decode",
    "load_manifest",
    "read_image",
    "stream",
]

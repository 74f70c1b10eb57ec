"""Images and their labels: manifests, splits, sources, decoding, preprocessing, augmentation. Knows no network."""

from stages.data.augmentation import Augmentation, augmentation
from stages.data.contact_sheet import contact_sheet
from stages.data.decoding import decode, decoder_name, read_image
from stages.data.manifest import Manifest, load_manifest
from stages.data.mixing import Mixing
from stages.data.photograph import UnreadableImageError
from stages.data.preprocessing import Preprocessing, stack_pixels
from stages.data.renderings import Renderings
from stages.data.streaming import Batch, Request, render, stream

__all__ = [
    "Augmentation",
    "Batch",
    "Manifest",
    "Mixing",
    "Preprocessing",
    "Renderings",
    "Request",
    "UnreadableImageError",
    "augmentation",
    "contact_sheet",
    "decode",
    "decoder_name",
    "load_manifest",
    "read_image",
    "render",
    "stack_pixels",
    "stream",
]

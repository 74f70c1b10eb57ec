"""Images and their labels: manifests, splits, sources, decoding, preprocessing, augmentation. Knows no network."""

"""How a run begins: its options, its samples, its features, and the manifest of a run that is there."""

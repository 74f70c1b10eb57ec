"""Masks: files that hold the class of each pixel of an image, as numbers or as colors, and what these mean.

Which mask is of which image is known in the room of sources; here are a file's values, the classes that they stand for,
and masks by the number of their sample. What does not belong here: networks, losses, and how a map is scored.
"""

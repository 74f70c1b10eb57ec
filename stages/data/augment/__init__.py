"""Augmentation of images: policies, mixing, test-time views, and sheets to judge them by."""

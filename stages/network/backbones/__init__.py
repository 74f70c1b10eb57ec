"""Pretrained networks and their weights. One file a family."""

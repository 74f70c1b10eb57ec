"""Heads: what is trained on cached features, as torch modules that are saved and loaded without pickle.

Models that are fitted in closed form become a `LinearHead`, an `RBFHead` or a `KNNHead`. Choosing and fitting a head
is stage 2's work.
"""

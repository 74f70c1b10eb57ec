"""What cached features say of the data: wrong labels, copies, outliers, balance, and what more labels would bring.

All of it works on arrays: features, labels, splits, keys. Images, networks and caches stay with the caller.
"""

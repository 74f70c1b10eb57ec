"""Heads that are fitted to rows of features, in closed form or by a solver. One file a head."""

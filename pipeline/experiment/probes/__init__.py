"""Questions before or beside a run: which network, which layer, which masks are wrong."""

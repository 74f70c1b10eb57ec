"""The process: device, threads, distributed ranks, random state, progress, cost. Knows no data and no network."""

"""Training: the loop, schedules and parameter groups, metrics, cost. Knows neither images nor caches."""

"""What a run's page shows of its images: evidence, features, maps of heat."""

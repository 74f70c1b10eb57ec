"""A run: its directory, its methods, its models."""

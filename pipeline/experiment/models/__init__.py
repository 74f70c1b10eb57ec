"""What is kept of a trained method: its card, its head and tuned blocks; opened again as networks."""

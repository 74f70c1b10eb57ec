"""What a run trains and tests: heads, columns, fine-tuning, ensembles, means; found again where they are there."""

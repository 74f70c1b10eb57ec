"""The three stages, extract, head and finetune, and what they are made of."""

"""Stage 1: images + backbone + cut -> cached features."""

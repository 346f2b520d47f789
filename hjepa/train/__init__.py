"""Training: one loop for every regime."""

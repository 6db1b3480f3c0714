"""Sample filters: reject samples that are too near to training examples. Never a guarantee."""

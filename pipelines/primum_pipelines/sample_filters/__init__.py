"""Sample filters: reject generated samples that are too near to training examples. Never a guarantee."""

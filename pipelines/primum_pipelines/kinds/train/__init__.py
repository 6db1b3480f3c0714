"""Train: central training under differential privacy, on one budget."""

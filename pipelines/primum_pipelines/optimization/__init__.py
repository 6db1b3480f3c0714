"""Private optimization: algorithms that train a model on units and report what they really did."""

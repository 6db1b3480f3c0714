"""A hospital in one process: the whole control plane on memory adapters, misbehaving on purpose, under an auditor."""

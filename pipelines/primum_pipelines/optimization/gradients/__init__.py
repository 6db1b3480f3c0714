"""Gradients of privacy units: their norms, and the sum of what clipping leaves of each.

One forward and one backward pass that computes no parameter gradient; each layer then turns its
inputs and output gradients into norms and weighted sums. Knows nothing of noise, sampling or
optimizers.
"""

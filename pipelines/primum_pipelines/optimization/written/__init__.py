"""Sequences of layers with forward and backward passes written out: each row's own gradient.

Many models of one shape at once, or one: shadow models and the Study's own training go the same
way. Knows nothing of units, clipping or noise.
"""

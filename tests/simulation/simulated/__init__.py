"""A hospital in one process, under an auditor.

The whole control plane on memory adapters, misbehaving on purpose.
"""

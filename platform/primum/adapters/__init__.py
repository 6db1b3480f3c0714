"""Doors to outside systems, one module per library, each behind a port.

Adapters do not know each other.
"""

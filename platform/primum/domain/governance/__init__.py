"""Governance: what is known about an artifact, and what policy makes of it."""

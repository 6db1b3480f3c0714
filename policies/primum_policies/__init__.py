"""Policies: the rules an organisation argues about, and the engine that asks them.

A policy bundle is a GatePolicy file under ``bundles``; there is no Python gate. This package sees
only ``primum.domain``; it must not read evidence stores, resources or the clock.
"""

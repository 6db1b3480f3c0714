"""Use cases: they sequence the domain through ports, and know no outside system by name."""

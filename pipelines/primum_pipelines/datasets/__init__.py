"""Dataset drivers, and the loader that opens nothing without a data token."""

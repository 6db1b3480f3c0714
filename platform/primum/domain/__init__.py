"""Pure decisions: what may happen, what it costs, and what follows.

No I/O, no clock, no randomness, no environment. Third-party imports are limited to numpy, scipy and
dp-accounting, and even those are imported inside functions, so that a command line does not pay for
them.
"""

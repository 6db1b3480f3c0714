"""Who gets budget next: blocks, claims, unlocking, schedulers, and workloads to compare them on.

Values in, values out: no clock, no randomness of its own, nothing read or written. The one core for
the operator, the embedded loop and ``primum ledger replay``. It must not be read as what the live
ledger does today: admission of a single Study stays first come, first served until blocks reach the
ledger. Its modules need numpy, so whoever starts fast imports them inside functions.
"""

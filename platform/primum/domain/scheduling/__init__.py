"""Who gets budget next: blocks, claims, unlocking, schedulers, and workloads to compare them on.

Values in, values out: no clock, no randomness of its own, nothing read or written. The one core for
the live ledger (``domain.budget.queueing`` and ``unlocking``) and for ``primum ledger replay``. It
must not decide anything for good: what a round grants is weighed anew before it is written. Its
modules need numpy, so whoever starts fast imports them inside functions.
"""

"""What differentially private mechanisms cost, and the filters that hold the cost inside a budget.

Pure decisions on immutable values. Nothing here may read a clock, draw a random number, touch a
file or know what a ledger entry looks like; numpy, scipy, and dp-accounting are imported where they
are used, so that a command that only parses a specification does not pay for them.
"""

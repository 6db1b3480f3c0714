"""Attacks: the programs behind the audits, in torch and numpy. Heavy; import inside functions only.

An attack returns figures, never a verdict, and never writes, logs or sends a record.
"""

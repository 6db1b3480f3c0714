"""What a privacy cost means for people.

Attack bounds, audits, and evaluation statistics, as pure functions.

Figures for cards and gates. Nothing here may feed the ledger: approximations and empirical audits
live here, and their docstrings say so. Formulas and their numbering follow privacy-theory.md.
"""

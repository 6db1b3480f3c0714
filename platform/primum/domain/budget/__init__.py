"""The budget: commands, entries and the pure ledger that folds them."""

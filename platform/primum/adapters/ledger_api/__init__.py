"""The ledger API as a client sees it: for processes that hold neither database nor signing key."""

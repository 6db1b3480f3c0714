"""Names of HTTP headers that the ledger API and who asks it agree on. Nothing else."""

from __future__ import annotations

# Carries a token through the API server's proxy, which keeps what is in Authorization to itself.
FORWARDED = "Primum-Authorization"

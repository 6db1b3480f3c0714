"""The HTTP face of ledger and evidence: OpenAPI, token roles, problem documents.

The only door to FastAPI here.
"""

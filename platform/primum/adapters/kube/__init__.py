"""The Kubernetes API: resources, events, leases and Jobs. The only door to the official client.

Nothing here decides: it reads objects, writes what it is told, and turns the API server's answers
into the errors of ``primum.domain.errors``.
"""

"""Lineage events to OpenLineage receivers: a durable outbox, and an emitter that sends.

A step only writes to the outbox (a local insert). The control process flushes it through
openlineage-python, which takes 0.5 s to import. A receiver that is down delays lineage and never
fails a job.
"""

from __future__ import annotations

from primum.adapters.openlineage.outbox import (
    Backlog,
    Destination,
    FileDestination,
    HttpDestination,
    Outbox,
)

__all__ = ["Backlog", "Destination", "FileDestination", "HttpDestination", "Outbox"]

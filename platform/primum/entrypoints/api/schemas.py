"""What the API sends, as models: the source of its OpenAPI document.

Decimal strings, never floats.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Shown(BaseModel):
    """Base of everything sent: camelCase, closed."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class Problem(BaseModel):
    """An RFC 9457 problem document."""

    type: str = Field(description="type is a URI naming the kind of problem.")
    title: str = Field(description="title is the HTTP status in words.")
    status: int = Field(description="status is the HTTP status.")
    detail: str = Field(description="detail is one sentence: name, rule, found, remedy.")


class Account(Shown):
    """One account of the ledger."""

    account_id: str
    dataset_uri: str
    unit: str
    neighbors: str
    policy: str
    epsilon: str = Field(description="epsilon is the guarantee's.")
    delta: str = Field(description="delta is the guarantee's.")
    epsilon_charged: str = Field(
        description=(
            "epsilonCharged is what is spent, as the accounting policy counts Studies that were "
            "chosen one after the other."
        )
    )
    epsilon_reserved: str = Field(
        description="epsilonReserved is the same with open reservations included."
    )
    epsilon_left: str
    frozen: str = Field(description="frozen is why nothing is granted, or empty.")


class LedgerEntry(Shown):
    """One line of the ledger."""

    seq: int
    prev_hash: str
    account_id: str
    kind: str
    reservation_id: str
    idempotency_key: str
    actor: str
    time: str
    payload: dict[str, Any]
    hash: str


class EntryPage(Shown):
    """A page of entries. The ledger only grows, so a page after a number never changes."""

    items: list[LedgerEntry]
    next_after: int | None = Field(
        description="nextAfter is the cursor of the next page, or null at the end."
    )


class Verification(Shown):
    """Whether the record is intact."""

    entries: int
    head: str
    contradictions: list[str]


class EvidenceRecord(Shown):
    """One evidence record, as far as the caller's role reaches."""

    kind: str
    name: str
    verdict: str | None
    digest: str
    public: dict[str, Any]
    restricted: dict[str, Any] | None = Field(
        description="restricted is null unless the role may read it."
    )


class QuoteAnswer(Shown):
    """What a Study would cost."""

    study: str
    plan: str
    epsilon: str
    delta: str
    epsilon_left: str
    times: int = Field(description="times is how many such Studies fit now.")
    refusal: str
    alternatives: list[str]


class Health(Shown):
    """Whether the process is alive, or ready."""

    status: str

"""Access to private data.

Tickets are minted at launch, redeemed by steps, and only a token opens anything. Run credentials,
minted beside them, say what a step may ask of the ledger API; they end with their run.

The order is the guarantee: the ledger's Exposed (or Inspected) entry is durable before the token
exists.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from primum import signing
from primum.application.platform import Platform
from primum.application.ports import Clock, EvidenceStore, LedgerStore, Signer
from primum.domain.budget.entries import ReservationView, Result, ResultCode
from primum.domain.budget.layout import WHOLE
from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import InvalidValue, Refused
from primum.domain.names import ticket_id
from primum.domain.study.credentials import credential_of
from primum.domain.study.plan import Access, DatasetFacts, Treatment
from primum.domain.study.spec import StudySpec
from primum.domain.study.steps import DataToken, StepContext
from primum.domain.study.tokens import grant_from_json


@dataclass(frozen=True, slots=True)
class Gatekeeper:
    """What redeeming needs.

    Nothing but ledger, key, clock, and the evidence store, which says how many consents were
    withdrawn; so that a step's process stays small.
    """

    ledger: LedgerStore
    signer: Signer
    clock: Clock
    token_seconds: float
    evidence: EvidenceStore


def mint_ticket(
    platform: Platform,
    spec: StudySpec,
    access: Access,
    facts: DatasetFacts,
    reservation: ReservationView,
) -> str:
    """One ticket for one declared access; it names everything the token will say.

    Args:
        platform: The ports.
        spec: The Study.
        access: The declared access.
        facts: The dataset behind it.
        reservation: The reservation on the dataset's account.

    Returns:
        The signed ticket as text.

    Raises:
        Refused: If the reservation does not pay for the very blocks that are to be read.
    """
    if set(facts.blocks or (WHOLE,)) != set(reservation.blocks):
        raise Refused(f"access {access.name} must read the blocks that are paid for; found others")
    held: dict[str, JSON] = {
        "reservationId": reservation.reservation_id,
        "fence": reservation.fence,
    }
    return _signed(platform, _ticket_claims(spec.uid, spec.generation, access, facts) | held)


def mint_audit_ticket(
    platform: Platform, *, uid: str, generation: int, access: Access, facts: DatasetFacts
) -> str:
    """A ticket for an access that is only inspected: no reservation stands behind it.

    Args:
        platform: The ports.
        uid: The AuditRun.
        generation: Its generation.
        access: The access; its treatment must be Inspected.
        facts: The dataset behind it.

    Raises:
        InvalidValue: If the access is not inspected.
    """
    if access.treatment is not Treatment.INSPECTED:
        raise InvalidValue(
            f"access {access.name}", "must be Inspected in an AuditRun", access.treatment.value
        )
    nothing: dict[str, JSON] = {"reservationId": "", "fence": 0}
    return _signed(platform, _ticket_claims(uid, generation, access, facts) | nothing)


def _ticket_claims(
    uid: str, generation: int, access: Access, facts: DatasetFacts
) -> dict[str, JSON]:
    layout = facts.dataset.layout
    if (layout is not None) != bool(facts.blocks):
        raise Refused(f"access {access.name} must name blocks exactly of a divided dataset")
    return {
        "id": ticket_id(uid, generation, access.name),
        "access": access.name,
        "treatment": access.treatment.value,
        "budget": access.budget,
        "accountId": facts.account_id,
        "uri": facts.dataset.uri,
        "unit": facts.dataset.unit.value,
        "options": dict(facts.dataset.options),
        "layout": {} if layout is None else layout.to_json(),
        "blocks": list(facts.blocks),
        "studyUid": uid,
        "generation": generation,
    }


def _signed(platform: Platform, claims: Mapping[str, JSON]) -> str:
    return signing.encode_token(platform.signer.sign(signing.TICKET_TYPE, canonical_json(claims)))


def with_credential(platform: Platform, context: StepContext) -> StepContext:
    """A step's context with the credential of its run.

    Args:
        platform: The ports.
        context: What the step is told, its tickets among it.

    Raises:
        Tampered: If a ticket was not signed by this platform.
    """
    claims = [ticket_claims(platform.signer, ticket) for ticket in context.tickets.values()]
    credential = credential_of(
        context,
        accounts=[str(item["accountId"]) for item in claims],
        expires=platform.clock.after(platform.conduct.credential_seconds),
    )
    envelope = platform.signer.sign(signing.RUN_CREDENTIAL_TYPE, credential.payload)
    return replace(context, credential=signing.encode_token(envelope))


def end_run(evidence: EvidenceStore, run_id: str) -> None:
    """Note durably that a run has ended for the platform: its credentials are refused from now."""
    if evidence.fact(RUN_ENDED, run_id) is None:
        evidence.put_fact(RUN_ENDED, run_id, {})


def redeem(keeper: Gatekeeper, ticket: str, *, actor: str, attempt: str = "") -> DataToken:
    """Record the access durably, then mint the data token.

    Args:
        keeper: What redeeming needs.
        ticket: The ticket.
        actor: Who asks, for the ledger.
        attempt: A secret of the process that asks, the same in each of its tries; empty for one
            that never asks again.

    Guarantees:
        A Charged access gives its token to one process ever: what is reserved pays for one run of
        the mechanism. Only the attempt that was first may ask again: for an answer that got lost,
        or for a worker that goes on where another was lost. A step that lost its token is lost and
        charged in full. An access that only looks may be
        redeemed again, while its reservation is open.

    Raises:
        Tampered: If the ticket was not signed by this platform.
        Refused: If the ledger does not grant the access; the message carries its reason.
    """
    claims = ticket_claims(keeper.signer, ticket)
    access, account = str(claims["access"]), str(claims["accountId"])
    if claims["treatment"] == Treatment.INSPECTED.value:
        key = f"inspect/{claims['id']}"
        result = keeper.ledger.inspect(
            account, access=access, study_uid=str(claims["studyUid"]), key=key, actor=actor
        )
    else:
        reservation = str(claims["reservationId"])
        fence = int(str(claims["fence"]))
        result = keeper.ledger.expose(reservation, access=access, fence=fence, actor=actor)
    if not result.stands:
        raise Refused(
            f"access {access} was not granted: {result.code.value}. {result.message}".strip()
        )
    if claims["treatment"] == Treatment.CHARGED.value:
        _once(keeper.evidence, claims, result, attempt=attempt)
    # A ticket of an older version says nothing of blocks: it was minted for a whole dataset.
    token: dict[str, JSON] = {"layout": {}, "blocks": []}
    token |= {name: claims[name] for name in _TOKEN_CLAIMS if name in claims}
    token["withdrawn"] = withdrawals(keeper.evidence, account)
    token["expires"] = keeper.clock.after(keeper.token_seconds)
    payload = grant_from_json(token).payload
    text = signing.encode_token(keeper.signer.sign(signing.DATA_TOKEN_TYPE, payload))
    return DataToken(text=text, access=access, budget=str(claims["budget"]), uri=str(claims["uri"]))


def _once(
    evidence: EvidenceStore, claims: Mapping[str, JSON], result: Result, *, attempt: str
) -> None:
    """Let through who redeemed first, or the same attempt again."""
    key = str(claims["id"])
    mark: dict[str, JSON] = {"attempt": hashlib.sha256(attempt.encode()).hexdigest()}
    if result.code is not ResultCode.REPEATED:
        if attempt:
            evidence.put_fact(REDEMPTION, key, mark)
        return
    if not attempt or evidence.fact(REDEMPTION, key) != mark:
        raise Refused(f"access {claims['access']} was not granted: its ticket was redeemed before")


def withdrawals(evidence: EvidenceStore, account_id: str) -> int:
    """How many withdrawn consents of an account are on record: what the loader must know of."""
    return sum(value["account"] == account_id for _, value in evidence.facts(WITHDRAWAL))


def ticket_claims(signer: Signer, ticket: str) -> Mapping[str, JSON]:
    """What a ticket of this platform says.

    Raises:
        Tampered: If this platform did not sign it.
    """
    return _claims(signer.open(signing.decode_token(ticket), signing.TICKET_TYPE))


REDEMPTION = "Redemption"  # By ticket: which attempt redeemed it first.
RUN_ENDED = "RunEnded"  # By run: its credentials are refused.
WITHDRAWAL = "ConsentWithdrawal"  # One fact per withdrawn unit, by its mark.

_TOKEN_CLAIMS = (
    "id",
    "access",
    "budget",
    "accountId",
    "uri",
    "unit",
    "options",
    "layout",
    "blocks",
    "studyUid",
    "generation",
    "reservationId",
    "fence",
)


def _claims(payload: bytes) -> dict[str, JSON]:
    value = json.loads(payload)
    if not isinstance(value, dict):
        raise Refused("ticket must be a JSON object")
    return value

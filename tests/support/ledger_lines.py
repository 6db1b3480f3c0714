"""Long synthetic ledgers as stored lines: intact by construction, and made in a stream."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from ledger_words import request, terms

from primum.domain.accounting.events import Repeated, SubsampledGaussian
from primum.domain.accounting.policies import policy_named
from primum.domain.budget import book, decisions, folding, lines
from primum.domain.budget.book import Draft, Head
from primum.domain.budget.entries import EntryKind
from primum.domain.budget.verification import Cached

ACCESSES = ("validate", "job", "evaluate")
START = "2026-01-01T00:00:00.000000Z"


class Long:
    """The lines of a ledger of about ``count`` entries, and what a store would hold beside them.

    Every Study is reserved, exposed for three accesses and charged: what a platform's ledger
    mostly holds.
    """

    def __init__(self, count, *, accounts=4):
        self.count = count
        self.head = Head(time=START)
        self.accounts = {}
        self.reservations = {}
        self._names = [f"account-{number}" for number in range(accounts)]

    def __iter__(self):
        policy = policy_named("RDP")
        event = Repeated(SubsampledGaussian(Decimal("60.5"), Decimal("0.001")), 3)
        opened = {"policy": policy.to_json()}
        for name in self._names:
            asked = book.terms_json(
                terms(dataset_uri=name, dataset_digest="", epsilon=Decimal(10**6))
            )
            yield self._write(name, EntryKind.OPENED, "", "open", opened | {"asked": asked})
        charge = book.charge_json(policy.charge(event, terms().neighbors))
        for number in range((self.count - len(self._names)) // 5):
            name, held = self._names[number % len(self._names)], f"reservation-{number:09d}"
            yield from self._study(name, held, event.to_json(), charge)

    def _study(self, name, held, event, charge):
        asked = request(name, held)
        content = {
            "studyUid": f"study-{held}",
            "generation": asked.generation,
            "study": asked.study,
            "purpose": asked.purpose,
            "requester": asked.requester,
            "event": event,
            "together": [held],
        }
        until = decisions.later(START, 60)
        payload = {"asked": content, "charge": charge, "leaseUntil": until}
        yield self._write(name, EntryKind.RESERVED, held, f"reserve/{held}", payload)
        fence = self.head.seq
        for access in ACCESSES:
            asked = {"access": access, "fence": fence}
            key = f"expose/{held}/{access}"
            yield self._write(name, EntryKind.EXPOSED, held, key, {"asked": asked})
        payload = {
            "asked": {"executed": event, "reason": "settled"},
            "charged": charge,
            "code": "Accepted",
            "executed": event,
            "returned": {},
            "why": "settled",
        }
        yield self._write(name, EntryKind.CHARGED, held, f"charge/{held}", payload)

    def _write(self, name, kind, held, key, payload):
        draft = Draft(name, kind, held, key, payload)
        entry = book.sealed(draft, head=self.head, actor="platform/loop", time=START)
        account, reservation = folding.fold(
            entry, self.accounts.get(name), self.reservations.get(held) if held else None
        )
        self.accounts[name] = account
        if reservation is not None:
            self.reservations[held] = reservation
        self.head = replace(self.head, seq=entry.seq, hash=entry.hash)
        return lines.line_of(entry)

    def taken(self):
        """The reservations made so far, and forgets them: so that a long one stays small."""
        found, self.reservations = self.reservations, {}
        return found

    def cached(self):
        """What a store holds after the last line."""
        return Cached(
            head=self.head,
            accounts=list(self.accounts.values()),
            reservations_of=lambda names: {name: self.reservations[name] for name in names},
            strays=(),
            identities=[(i, a.account_id) for a in self.accounts.values() for i in a.identities],
        )

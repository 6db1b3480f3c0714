"""The independent auditor: a deliberately naive model of what must never happen.

It reads what crossed the ports and what the stores hold, keeps its own copy, and recomputes every
cost with formulas of its own. It shares no code with the ledger's decisions, the accountants or
the settlement.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from primum import signing

SECRET = "patient-4711"  # Stands for a record-level value; must never leave the zone.
_ORDERS = range(2, 65)
_INCIDENTS = ("SelfTest", "Membership", "Reconstruction")


class Violation(BaseException):
    """An invariant is broken. Not an ``Exception``: nothing under test may catch it and go on."""


def subsampled_rdp(order: int, sigma: float, rate: float) -> float:
    """RDP of the Poisson-subsampled Gaussian at an integer order.

    Mironov, Talwar and Zhang 2019, section 3.3.
    """
    terms = [
        math.log(math.comb(order, k))
        + (order - k) * math.log1p(-rate)
        + k * math.log(rate)
        + k * (k - 1) / (2 * sigma**2)
        for k in range(order + 1)
    ]
    top = max(terms)
    return (top + math.log(sum(math.exp(term - top) for term in terms))) / (order - 1)


def leaves(event: Mapping[str, Any], times: int = 1) -> list[tuple[str, float, float, int]]:
    """The mechanisms of a stored event as (type, noise, rate, count)."""
    kind = event["event"]
    if kind == "NoEvent":
        return []
    if kind == "Repeated":
        return leaves(event["of"], times * int(event["count"]))
    if kind == "Composed":
        return [leaf for part in event["events"] for leaf in leaves(part, times)]
    return [(kind, float(event["noiseMultiplier"]), float(event.get("sampleRate", 1)), times)]


class Spending:
    """What a list of mechanisms costs, under the three ways of adding up."""

    def __init__(self) -> None:
        self._curves: dict[tuple[str, float, float], list[float]] = {}

    def curve(self, found: Sequence[tuple[str, float, float, int]]) -> list[float]:
        """The sum of Renyi curves at orders 2 to 64."""
        total = [0.0] * len(_ORDERS)
        for kind, noise, rate, count in found:
            one = self._one(kind, noise, rate)
            total = [sum_ + count * value for sum_, value in zip(total, one, strict=True)]
        return total

    def _one(self, kind: str, noise: float, rate: float) -> list[float]:
        key = (kind, noise, rate)
        if key not in self._curves:
            self._curves[key] = self._fresh(kind, noise, rate)
        return self._curves[key]

    @staticmethod
    def _fresh(kind: str, noise: float, rate: float) -> list[float]:
        if kind == "SubsampledGaussian" and rate < 1:
            return [subsampled_rdp(order, noise, rate) for order in _ORDERS]
        if kind in ("Gaussian", "SubsampledGaussian"):
            return [order / (2 * noise**2) for order in _ORDERS]
        if kind == "Laplace":
            return [1 / noise] * len(_ORDERS)  # Pure DP bounds every order.
        raise Violation(f"the auditor does not know {kind}")

    def epsilon(
        self, found: Sequence[tuple[str, float, float, int]], *, delta: float, policy: str
    ) -> float:
        """The epsilon of a composition under a policy's own way of adding up."""
        if not found:
            return 0.0
        if policy == "Basic":
            return sum(count / noise for _, noise, _, count in found)
        if policy == "GDP":
            mu = math.sqrt(sum(count / noise**2 for _, noise, _, count in found))
            return _gaussian_epsilon(mu, delta)
        curve = self.curve(found)
        return min(
            rdp + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
            for order, rdp in zip(_ORDERS, curve, strict=True)
        )


def _gaussian_epsilon(mu: float, delta: float) -> float:
    """The epsilon of a mu-Gaussian mechanism (Balle and Wang 2018, theorem 8), by bisection."""

    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    low, high = 0.0, 1000.0
    for _ in range(80):
        middle = (low + high) / 2
        missing = phi(mu / 2 - middle / mu) - math.exp(min(middle, 700)) * phi(
            -mu / 2 - middle / mu
        )
        low, high = (middle, high) if missing > delta else (low, middle)
    return low


class Auditor:
    """Sees what happens; ``check`` says what must not have.

    Args:
        public_key: The platform's public key, PEM.
    """

    def __init__(self, public_key: str) -> None:
        self._public_key = public_key
        self._spending = Spending()
        self.lines: list[
            tuple[int, str, str, dict[str, Any]]
        ] = []  # seq, hash, account, the entry as text
        self.terms: dict[str, dict[str, Any]] = {}  # by account: the smallest guarantee it ever had
        self.of_data: dict[tuple[str, str], set[str]] = defaultdict(
            set
        )  # accounts by (uri or digest, unit)
        self.held: dict[str, dict[str, Any]] = {}  # by reservation
        self.queued: dict[str, dict[str, Any]] = {}  # claims that wait or waited, by reservation
        self.claims: dict[tuple[str, int], set[str]] = defaultdict(set)  # their parts
        self.truth: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(
            list
        )  # what really ran, by reservation
        self.reached: dict[tuple[str, str], int] = {}  # steps begun, by reservation and access
        self.beyond: set[str] = set()  # reservations in which more ran than was planned
        self.inspected: set[tuple[str, str, str]] = set()  # account, Study, access
        self.frozen: dict[str, bool] = {}
        self.ever_frozen: set[str] = set()
        self.launched: dict[str, str] = {}
        self.attacked: dict[
            str, tuple[str, int]
        ] = {}  # the Study generation that an AuditRun attacks
        self.revoked: dict[str, str] = {}  # uid of a Release by its key
        self.contradicted: set[tuple[str, int]] = set()
        self.secrets: list[str] = []
        self.coverage: dict[str, int] = defaultdict(int)

    # What the ports show.

    def read_ledger(self, entries: Sequence[Any]) -> None:
        """Compare the ledger with the own copy, then fold what is new."""
        stored = [(e.seq, e.hash, e.account_id, _entry(e)) for e in entries]
        if stored[: len(self.lines)] != self.lines:
            differing = [
                pair for pair in zip(self.lines, stored, strict=False) if pair[0] != pair[1]
            ]
            raise Violation(
                f"an entry changed or disappeared: knew {len(self.lines)}, "
                f"found {len(stored)}, {differing[:1]}"
            )
        for seq, digest, account, entry in stored[len(self.lines) :]:
            before = self.lines[-1][1] if self.lines else "0" * 64
            if seq != len(self.lines) + 1 or entry["prevHash"] != before:
                raise Violation(f"entry {seq} does not follow entry {len(self.lines)}")
            self.lines.append((seq, digest, account, entry))
            self._fold(account, entry)

    def _fold(self, account: str, entry: Mapping[str, Any]) -> None:  # noqa: PLR0912 - one per kind
        kind, payload, reservation = entry["kind"], entry["payload"], entry["reservation"]
        self.coverage[kind] += 1
        asked = payload.get("asked", {})
        if kind == "Opened":
            self.terms[account] = dict(asked)
        elif kind == "Identified":
            self.terms[account] |= {
                name: asked[name] for name in ("uri", "digest") if name in asked
            }
        elif kind == "Lowered":
            self.terms[account] |= {name: asked[name] for name in ("epsilon", "delta")}
        elif kind == "Queued":
            if self.frozen.get(account):
                raise Violation(f"a frozen account lets reservation {reservation} wait")
            self.queued[reservation] = {"asked": asked, "state": "Queued"}
            self.claims[asked["studyUid"], asked["generation"]].add(reservation)
        elif kind in ("Withdrawn", "Expired", "Denied") and reservation in self.queued:
            self._leaves_the_queue(reservation, kind)
        elif kind == "Reserved":
            if reservation in self.queued:
                self._leaves_the_queue(reservation, kind)
                asked = self.queued[reservation]["asked"]
            self._once(reservation, account)
            self.held[reservation] = {
                "account": account,
                "event": asked["event"],
                "state": "Reserved",
                "seen": set(),
            }
            self.held[reservation] |= {
                "study": asked["studyUid"],
                "generation": asked["generation"],
            }
        elif kind == "Unlocked":
            self._unlocked(account, payload["unlocked"])
        elif kind == "Exposed":
            self._still(reservation, "Reserved", "Exposed")
            self.held[reservation]["state"] = "Exposed"
            self.held[reservation]["seen"].add(asked["access"])
        elif kind == "Charged":
            self._still(reservation, "Exposed")
            full = payload["executed"] is None or payload["charged"] == payload["reserved"]
            self.held[reservation] |= {
                "state": "Charged",
                "full": full,
                "spent": self.held[reservation]["event"] if full else payload["executed"],
            }
        elif kind == "Returned":
            self._still(reservation, "Reserved")
            self.held[reservation]["state"] = "Returned"
        elif kind == "Inspected":
            self.inspected.add((account, asked["studyUid"], asked["access"]))
        elif kind in ("Frozen", "Thawed"):
            self.frozen[account] = kind == "Frozen"
            self.ever_frozen |= {account} if kind == "Frozen" else set()

    def _leaves_the_queue(self, reservation: str, kind: str) -> None:
        if self.queued[reservation]["state"] != "Queued":
            raise Violation(
                f"claim {reservation} was {self.queued[reservation]['state']} and moved again"
            )
        self.queued[reservation]["state"] = kind

    def _unlocked(self, account: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """What was unlocked is never taken back."""
        for row in rows:
            if any(int(amount) < 0 for amount in row["amounts"].values()):
                raise Violation(f"account {account} took back what it had unlocked")

    def _all_or_none(self) -> None:
        """The parts of a claim that waited are granted together."""
        for claim, parts in self.claims.items():
            states = {self.queued[name]["state"] for name in parts}
            if len(states) > 1:
                raise Violation(f"the claim of {claim} came apart: {sorted(states)}")

    def _once(self, reservation: str, account: str) -> None:
        if reservation in self.held:
            raise Violation(f"reservation {reservation} was granted twice")
        if self.frozen.get(account):
            raise Violation(f"a frozen account granted reservation {reservation}")

    def _still(self, reservation: str, *states: str) -> None:
        if self.held[reservation]["state"] not in states:
            raise Violation(
                f"reservation {reservation} was {self.held[reservation]['state']} and moved again"
            )

    def token_signed(self, claims: Mapping[str, Any]) -> None:
        """A data token is about to exist: the ledger must say so first (rule 2)."""
        self.coverage["token"] += 1
        if claims["reservationId"]:
            held = self.held.get(claims["reservationId"])
            if held is not None and claims["access"] in held["seen"]:
                return
        if any(
            (study, access) == (claims["studyUid"], claims["access"])
            for _, study, access in self.inspected
        ):
            return
        raise Violation(
            f"a token for {claims['access']} was minted without an Exposed or Inspected entry"
        )

    def mechanism_ran(
        self,
        reservation: str,
        access: str,
        event: Mapping[str, Any],
        *,
        beyond: bool,
        after: int = 0,
    ) -> None:
        """A mechanism really ran on data; whatever anybody reports, this is what happened.

        Args:
            reservation: What pays for it.
            access: The access.
            event: What ran, steps of one mechanism.
            beyond: Whether more ran than was planned.
            after: After how many steps it began: no step is run twice.
        """
        self.coverage["mechanism"] += 1
        if self.reached.get((reservation, access), 0) > after or (
            not after and any(name == access for name, _ in self.truth[reservation])
        ):
            raise Violation(f"the mechanism of access {access} ran twice under one reservation")
        self.reached[reservation, access] = after + int(event.get("count", 0))
        self.truth[reservation].append((access, dict(event)))
        if beyond:
            self.beyond.add(reservation)

    def run_launched(self, run: str, study: Mapping[str, Any]) -> None:
        """A run began: one generation has one run."""
        who = f"{study['uid']}/{study['generation']}"
        if self.launched.setdefault(run, who) != who or list(self.launched.values()).count(who) > 1:
            raise Violation(f"{who} was launched as two runs")

    def published(
        self, name: str, spec: Mapping[str, Any], certificate: Mapping[str, Any], evidence: Any
    ) -> None:
        """An artifact was made available: only under a valid certificate, over passed evidence."""
        self.coverage["published"] += 1
        try:
            payload = signing.verify(self._public_key, certificate, signing.CERTIFICATE_TYPE)
        except Exception as error:
            raise Violation(f"{name} was published without a valid certificate: {error}") from error
        said = json.loads(payload)
        predicate = said.get("predicate")
        if not isinstance(predicate, dict):
            raise Violation(f"{name} was published under something that is no certificate")
        if "sha256:" + said["subject"][0]["digest"]["sha256"] != spec["artifact"]["digest"]:
            raise Violation(f"{name} was published under a certificate of another artifact")
        if predicate["release"]["name"] != name:
            raise Violation(f"{name} was published under a certificate of another release")
        study = (predicate["study"]["uid"], int(predicate["study"]["generation"]))
        self._gates(name, evidence(*study))
        if study in self.contradicted:
            raise Violation(f"{name} was published although its claim was contradicted")
        for held in self._of_study(*study):
            if held["state"] != "Charged":
                raise Violation(f"{name} was published over a reservation that is {held['state']}")

    def _gates(self, name: str, evidence: Sequence[Any]) -> None:
        """Rule 7, for the simulation's policy: validated, self-tested, attacked without success."""
        found = {
            kind: [e.verdict for e in evidence if e.kind == kind]
            for kind in ("DataQuality", *_INCIDENTS)
        }
        for kind in ("DataQuality", "SelfTest", "Membership"):
            if not found[kind] or any(verdict != "Pass" for verdict in found[kind]):
                raise Violation(f"{name} was published with {kind} {found[kind]}")

    def outcome_recorded(self, outcome: Any, evidence: Sequence[Any]) -> None:
        """Evidence became durable."""
        self.coverage[f"{outcome.step} {outcome.status.value}"] += 1
        for item in evidence:
            if (
                item.kind.value in _INCIDENTS
                and item.verdict is not None
                and item.verdict.value == "Fail"
            ):
                self.contradicted.add(
                    self.attacked.get(item.study_uid, (item.study_uid, item.generation))
                )
        self.shown(outcome.message)

    def shown(self, text: str) -> None:
        """Something that people outside the zone may read."""
        if SECRET in text:
            raise Violation(f"a record-level value got out: {text[:200]}")

    # What the stores hold.

    def check(self, entries: Sequence[Any], releases: Sequence[Any]) -> None:
        """Everything that must hold at every moment."""
        self.read_ledger(entries)
        self._all_or_none()
        self._no_overspend()
        self._truth_is_covered()
        self._one_account_per_data()
        self._revocations_stay(releases)

    def _no_overspend(self) -> None:
        mechanisms: dict[str, list[tuple[str, float, float, int]]] = defaultdict(list)
        for held in self.held.values():
            if held["state"] in ("Reserved", "Exposed"):
                mechanisms[held["account"]] += leaves(held["event"])
            elif held["state"] == "Charged":
                mechanisms[held["account"]] += leaves(held["spent"])
        for account, found in mechanisms.items():
            terms = self.terms[account]
            if (found, terms["epsilon"]) == terms.get("checked"):
                continue
            spent = self._spending.epsilon(
                found, delta=float(terms["delta"]), policy=str(terms["policy"])
            )
            if spent > float(terms["epsilon"]) * (1 + 1e-9):
                raise Violation(f"account {account} holds epsilon {spent} of {terms['epsilon']}")
            terms["checked"] = (found, terms["epsilon"])

    def _truth_is_covered(self) -> None:
        """What really ran costs no more than what is held or charged for it (rules 1 and 3)."""
        for reservation, ran in self.truth.items():
            held = self.held[reservation]
            if held["state"] == "Returned":
                raise Violation(f"reservation {reservation} was returned although a mechanism ran")
            if reservation in self.beyond:
                continue  # The plan itself was exceeded: charged in full, see ended().
            paid = self._spending.curve(leaves(held.get("spent", held["event"])))
            real = self._spending.curve([leaf for _, event in ran for leaf in leaves(event)])
            if any(r > p * (1 + 1e-9) for r, p in zip(real, paid, strict=True)):
                raise Violation(f"reservation {reservation} was charged less than what ran")

    def _one_account_per_data(self) -> None:
        for account, terms in self.terms.items():
            self.of_data[terms["uri"], terms["unit"]].add(account)
        for data, accounts in self.of_data.items():
            if len(accounts) > 1:
                raise Violation(
                    f"{data} has {len(accounts)} accounts: recreating reset what was spent"
                )

    def _revocations_stay(self, releases: Sequence[Any]) -> None:
        present = {str(stored.key): stored for stored in releases}
        for key, uid in list(self.revoked.items()):
            stored = present.get(key)
            if stored is None or stored.uid != uid:
                del self.revoked[key]
            elif "revocation" not in stored.spec:
                raise Violation(f"the revocation of {key} was undone")
        for key, stored in present.items():
            if "revocation" in stored.spec:
                self.revoked[key] = stored.uid

    def looked(self, releases: Sequence[Any], served: Sequence[Any]) -> None:
        """After an undisturbed look nothing is served that is revoked or undeclared (rule 6)."""
        standing = {
            stored.key
            for stored in releases
            if "revocation" not in stored.spec and not stored.deleting
        }
        for key in served:
            if key not in standing:
                raise Violation(f"{key} is served although it was revoked or removed")

    def ended(self, served: Mapping[Any, Mapping[str, Any]]) -> None:
        """After faults have stopped and everything came to rest."""
        for reservation, held in self.held.items():
            if held["state"] in ("Reserved", "Exposed"):
                raise Violation(f"reservation {reservation} never ended")
            if reservation in self.beyond and not held.get("full"):
                raise Violation(
                    f"reservation {reservation} exceeded its plan and was not charged in full"
                )
        for study, generation in self.contradicted:
            for held in self._of_study(study, generation):
                if held["account"] not in self.ever_frozen:
                    raise Violation(
                        f"the claim of {study} was contradicted and its account never froze"
                    )
        for key, item in served.items():
            study = item["spec"]["study"]
            if (study["uid"], study["generation"]) in self.contradicted:
                raise Violation(f"{key} is served although its claim was contradicted")

    def _of_study(self, study: str, generation: int) -> list[dict[str, Any]]:
        return [
            held
            for held in self.held.values()
            if (held["study"], held["generation"]) == (study, generation)
        ]


def _entry(entry: Any) -> dict[str, Any]:
    return {
        "kind": entry.kind.value,
        "reservation": entry.reservation_id,
        "prevHash": entry.prev_hash,
        "key": entry.idempotency_key,
        "actor": entry.actor,
        "time": entry.time,
        "payload": json.loads(json.dumps(entry.payload)),
    }

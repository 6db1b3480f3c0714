"""The world: platform, control loops, people and time, moved by one seed."""

from __future__ import annotations

import functools
import itertools
import json
import random
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from primum import signing
from primum.adapters import memory
from primum.application import advance
from primum.application.access import Gatekeeper
from primum.application.platform import Conduct, Platform
from primum.application.step_services import DirectStepServices
from primum.domain import names
from primum.domain.canonical import canonical_json
from primum.domain.conditions import ConditionType, Status
from primum.domain.names import ResourceKey
from primum.domain.study.registration import Registration
from primum.domain.study.steps import StepContext, StepOutcome, StepServices
from primum.entrypoints import bootstrap, loop
from primum.resources.status import condition
from primum_pipelines.runtime import execute
from primum_policies.engine import CelPolicyEngine
from simulated.auditor import Auditor, Violation
from simulated.faults import Chaos, Disturbed, SimulatedCrash, witnessed
from simulated.jobs import ATTACK, KIND, SimulatedKind, Worker
from simulated.runner import SimulatedRunner

NAMESPACE = "ward"
LEASE = 600.0
STEPS = 90  # Moves of a simulation before faults stop.
LOOKS_MAX = 120  # Undisturbed looks within which everything must have come to rest.
BUDGETS: Mapping[str, tuple[str, str, str]] = {  # uri, accounting, epsilon
    "scans": ("sim://scans", "RDP", "2.0"),
    "copies": ("sim://scans", "RDP", "2.0"),  # The same data under another name: one account.
    "labs": ("sim://labs", "GDP", "3.0"),
    "visits": ("sim://visits", "Basic", "0.7"),
    "rounds": ("sim://rounds", "RDP", "3.0"),
    "turns": ("sim://turns", "RDP", "2.5"),
}
# In these a claim waits for its turn, and budget comes with time or with claims.
SHARING: Mapping[str, Mapping[str, Any]] = {
    "rounds": {
        "unlocking": {"rule": "PerTime", "days": "0.01"},
        "scheduling": {"scheduler": "DPF", "waitDays": "0.02"},
        "quotas": [{"per": "Study", "epsilon": "2.9"}],
    },
    "turns": {
        "unlocking": {"rule": "PerClaim", "claims": 2},
        "scheduling": {"scheduler": "DualPrices", "waitDays": "0.015"},
    },
}
# How releases with a schedule are audited again.
AUDITED_AGAIN: tuple[Mapping[str, Any], ...] = (
    {},
    {"auditPolicy": {"concurrencyPolicy": "Replace", "historyLimit": 1}},
    {"auditPolicy": {"concurrencyPolicy": "Allow", "triggers": ["LedgerChange"]}},
    {"auditPolicy": {"startingDeadlineSeconds": 600, "activeDeadlineSeconds": 60}},
)
TOGETHER = (("scans", "copies"), ("labs",), ("visits",), ("rounds", "turns"), ("scans", "rounds"))
LEDGER_WRITES = frozenset(
    {
        "open_account",
        "reserve",
        "expose",
        "extend",
        "charge",
        "give_back",
        "inspect",
        "freeze",
        "thaw",
        "expire",
        "configure",
        "divide",
        "schedule",
    }
)


@functools.cache
def _signer() -> memory.MemorySigner:
    return memory.MemorySigner()


@functools.cache
def _policies() -> CelPolicyEngine:
    return CelPolicyEngine()


class _Silent:
    """A logger that tells the auditor what it was to print."""

    def __init__(self, auditor: Auditor, said: list[str]) -> None:
        self._auditor, self._said = auditor, said

    def warning(self, event: str, **fields: object) -> None:
        self._said.append(f"{event} {fields}")
        self._auditor.shown(f"{event} {fields}")

    def error(self, event: str, **fields: object) -> None:
        """As a warning: somebody reads it at once."""
        self.warning(event, **fields)

    def info(self, event: str, **fields: object) -> None:
        """As a warning: somebody may read it."""
        self.warning(event, **fields)

    def debug(self, event: str, **fields: object) -> None:
        """Goes to the steward's own log, and helps whoever reads a failing seed."""
        self._said.append(traceback.format_exc())


class World:
    """One simulated hospital.

    Args:
        seed: Decides everything that happens.
    """

    budgets = BUDGETS

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.chaos = Chaos(random.Random(seed * 2 + 1))
        self.chaos.others = self._somebody_else
        self.clock = memory.ManualClock("2026-03-01T00:00:00.000000Z")
        self.monotonic = 0.0
        self.auditor = Auditor(_signer().public_key())
        self.ledger = memory.MemoryLedgerStore(clock=self.clock, anchor=memory.MemoryAnchor())
        self.evidence = memory.MemoryEvidenceStore()
        self.resources = memory.MemoryResourceStore(clock=self.clock)
        self.publisher = memory.MemoryPublisher(_signer().public_key())
        self._attempts = itertools.count()
        self.runner = SimulatedRunner(self.chaos, self._execute)
        self.chaos.racing = self.runner.twins
        self.said: list[str] = []
        self.trace: list[str] = []
        self.platform = self._platform()
        self.loops = [self._fresh_loop(), self._fresh_loop()]
        self._looking = [False, False]
        self._created = 0

    # The platform.

    def _platform(self) -> Platform:
        worker = Worker(self.chaos, random.Random(self.seed * 2 + 2), self.auditor)
        lineage = memory.MemoryLineage()
        known = {
            uri: Registration(
                digest="sha256:" + uri.encode().hex().ljust(64, "0")[:64],
                units=900,
                train_units=700,
            )
            for uri, _, _ in self.budgets.values()
        }
        signer = self._watched(_signer(), {"sign"}, self._signed, before=True)
        platform = Platform(
            clock=self.clock,
            ledger=self._watched(self.ledger, LEDGER_WRITES, self._ledger_moved),
            evidence=self._watched(
                self.evidence, {"put_plan", "begin", "record", "put_fact"}, self._recorded
            ),
            resources=self._watched(self.resources, {"apply", "set_status", "remove"}, self._shown),
            runner=self._watched(self.runner, {"launch", "stop"}, self._launched),
            compute=worker,
            datasets=self._watched(memory.MemoryDatasets(known), set(), None),
            lineage=_Witnessed(lineage, self.auditor),
            signer=signer,
            policies=_policies(),
            publisher=self._watched(self.publisher, {"publish", "withdraw"}, self._published),
            archive=self._watched(memory.MemoryArchive(), {"put"}, None),
            kinds=lambda: {KIND: SimulatedKind()},
            accountant=bootstrap.accountant,
            conduct=Conduct(LEASE, 3600.0, "memory://artifacts", (), "https://primum.dev"),
        )
        self._worker = worker
        return platform

    def _watched(
        self,
        port: object,
        writes: set[str] | frozenset[str],
        witness: Callable[..., None] | None,
        *,
        before: bool = False,
    ) -> Any:
        if before:
            port = _Before(port, witness)
            witness = None
        return Disturbed(port, self.chaos, writes=frozenset(writes), witness=witness)

    def _ledger_moved(self, name: str, args: Any, kwargs: Any, answer: Any) -> None:
        if name in LEDGER_WRITES:
            self.auditor.read_ledger(self.ledger.entries(limit=10_000))

    def _signed(self, payload_type: str, payload: bytes) -> None:
        if payload_type == signing.DATA_TOKEN_TYPE:
            self.auditor.token_signed(json.loads(payload))

    def _recorded(self, name: str, args: Any, kwargs: Any, answer: Any) -> None:
        if name == "record":
            self.auditor.outcome_recorded(args[0], args[1])

    def _shown(self, name: str, args: Any, kwargs: Any, answer: Any) -> None:
        if name == "set_status":
            self.auditor.shown(canonical_json(args[2]).decode())

    def _launched(self, name: str, args: Any, kwargs: Any, answer: Any) -> None:
        if name == "launch":
            study = kwargs["steps"][0].study
            self.auditor.run_launched(args[0], study)
            if study["uid"] in {stored.uid for stored in self.resources.list("AuditRun")}:
                job = kwargs["steps"][0].upstream["job"]
                made = {
                    names.outcome_id(held["study"], held["generation"], "job"): held
                    for held in self.auditor.held.values()
                }
                self.auditor.attacked[study["uid"]] = (made[job]["study"], made[job]["generation"])

    def _published(self, name: str, args: Any, kwargs: Any, answer: Any) -> None:
        if name == "publish":
            evidence = self.evidence.evidence
            self.auditor.published(args[0].name, kwargs["spec"], kwargs["certificate"], evidence)

    def _execute(self, context: StepContext) -> StepOutcome:
        services = self._services(context)
        return execute(context, services, clock=self.clock.now, pause=lambda _: None)

    def _services(self, context: StepContext) -> StepServices:
        platform = self.platform
        return DirectStepServices(
            context=context,
            keeper=Gatekeeper(
                platform.ledger,
                platform.signer,
                self.clock,
                platform.conduct.token_seconds,
                platform.evidence,
            ),
            ledger=platform.ledger,
            store=platform.evidence,
            worker=self._worker,
            signer=platform.signer,
            lineage_sink=platform.lineage,
            artifacts=platform.conduct.artifacts_uri,
            folders=(),
            attempt=f"process-{next(self._attempts)}",
        )

    # Who acts.

    def _fresh_loop(self) -> loop.ControlLoop:
        return loop.ControlLoop(self.platform, flush_lineage=lambda: 0)

    def look(self, which: int = 0) -> None:
        """One look of a control loop; a crash ends it and a new one takes its place."""
        if self._looking[which]:
            return
        self._looking[which] = True
        faults = self.chaos.count
        try:
            self.loops[which].look()
        except SimulatedCrash:
            self.loops[which] = self._fresh_loop()
            return
        finally:
            self._looking[which] = False
        if self.chaos.count == faults and not any(self._looking):
            self._after_look()

    def _after_look(self) -> None:
        """An undisturbed look leaves nothing served that should not be.

        Loops may back off after earlier faults.
        """
        if not any(self.loops[0]._retry_at) and not any(self.loops[1]._retry_at):
            self.auditor.looked(self.resources.list("Release"), list(self.publisher.published))

    def _somebody_else(self) -> None:
        """What happens in the middle of somebody's work."""
        try:
            moves = (self.runner.progress, lambda: self.look(0), lambda: self.look(1), self.people)
            weights = (3, 1, 1, 1) if not self.runner.twins() else (1, 0, 0, 0)
            self.rng.choices(moves, weights)[0]()
        except SimulatedCrash:
            return

    def step(self) -> None:
        """One move of the world, and what must hold after it."""
        moves: tuple[tuple[Callable[[], object], int], ...] = (
            (lambda: self.look(0), 10),
            (lambda: self.look(1), 5),
            (self.runner.progress, 20),
            (self.people, 5),
            (lambda: self.pass_time(self.rng.choice((1.0, 5.0, 20.0))), 6),
            (lambda: self.pass_time(self.rng.choice((LEASE * 2, 86400.0, -30.0, -3600.0))), 1),
            (self.runner.lose, 1),
            (self.runner.double, 10),
        )
        move = self.rng.choices([m for m, _ in moves], [w for _, w in moves])[0]
        self._guarded(move)
        self.check()

    @staticmethod
    def _guarded(move: Callable[[], object]) -> None:
        try:
            move()
        except SimulatedCrash:
            return

    def pass_time(self, seconds: float) -> None:
        """Move the clock; the monotonic one never goes back."""
        self.clock.advance(seconds)
        self.monotonic += max(seconds, 1.0)

    def check(self) -> None:
        """Ask the auditor."""
        self.auditor.check(self.ledger.entries(limit=10_000), self.resources.list("Release"))

    # What people do.

    def people(self) -> None:
        """One thing that somebody asks for."""
        self.rng.choices(
            (
                self.declare_study,
                self.declare_budget,
                self.delete,
                self.revoke,
                self.freeze,
                self.thaw,
                self.audit,
            ),
            (10, 3, 3, 1, 1, 2, 2),
        )[0]()

    def declare_budget(self, name: str = "") -> None:
        """Declare a budget, perhaps again."""
        name = name or self.rng.choice(list(self.budgets))
        uri, accounting, epsilon = self.budgets[name]
        spec = {
            "dataset": {"uri": uri, "unit": "Patient"},
            "guarantee": {"epsilon": epsilon, "delta": "1e-5"},
            "neighbors": "AddOrRemoveOne",
            "accounting": {"policy": accounting},
            "disclosures": ["Utility"],
        }
        spec |= SHARING.get(name, {})
        self._apply(ResourceKey("PrivacyBudget", NAMESPACE, name), spec)

    def declare_study(self) -> None:
        """Declare a Study, perhaps under a name that was used before."""
        self._created += 1
        number = self.rng.randrange(4)
        known = list(self.budgets)
        used = (self.rng.choice(known),)
        if self.rng.random() < 0.3:
            used = self.rng.choice(TOGETHER)
        spec: dict[str, Any] = {
            "purpose": "Try everything",
            "data": [{"role": "Private", "budget": name} for name in used],
            "privacy": {"epsilon": "2.0", "delta": "1e-5"},
            "job": {
                "kind": KIND,
                "parameters": {
                    "steps": self.rng.choice(("10", "40", "120")),
                    "noise": self.rng.choice(("2", "4")),
                },
            },
            "audits": [{"kind": "Membership", "attack": ATTACK}],
        }
        if self.rng.random() < 0.8:
            spec["release"] = {"endpoint": f"endpoint-{number}"}
            if self.rng.random() < 0.3:
                spec["release"]["auditSchedule"] = "0 0 * * *"
                spec["release"] |= AUDITED_AGAIN[number % len(AUDITED_AGAIN)]
        self._apply(ResourceKey("Study", NAMESPACE, f"study-{number}"), spec, immutable=True)

    def delete(self) -> None:
        """Ask for the deletion of anything."""
        kinds = ("Study", "Study", "PrivacyBudget", "Release", "AuditRun")
        found = self.resources.list(self.rng.choice(kinds))
        if found:
            self.resources.request_deletion(self.rng.choice(found).key)

    def revoke(self) -> None:
        """Take a release back."""
        found = [stored for stored in self.resources.list("Release") if not stored.deleting]
        if found:
            stored = self.rng.choice(found)
            spec = dict(stored.spec) | {"revocation": {"reason": "somebody asked"}}
            self.resources.apply(stored.key, spec, labels=stored.labels, owner=stored.owner)

    def freeze(self) -> None:
        """Freeze an account by hand."""
        self._on_account(
            lambda account, key: self.ledger.freeze(
                account, reason="doubt", key=key, actor="steward/ada"
            )
        )

    def thaw(self) -> None:
        """Thaw an account by hand."""
        self._on_account(
            lambda account, key: self.ledger.thaw(
                account, reason="fine", key=key, actor="steward/ada"
            )
        )

    def _on_account(self, act: Callable[[str, str], object]) -> None:
        accounts = self.ledger.accounts()
        if accounts:
            act(self.rng.choice(accounts).account_id, f"hand-{self.rng.randrange(10**9)}")

    def audit(self) -> None:
        """Attack something again."""
        releases = self.resources.list("Release")
        spec: dict[str, Any] = {"audit": {"kind": "Membership", "attack": ATTACK}}
        if releases and self.rng.random() < 0.7:
            spec["release"] = self.rng.choice(releases).key.name
        else:
            spec["study"] = f"study-{self.rng.randrange(4)}"
        self._created += 1
        self._apply(ResourceKey("AuditRun", NAMESPACE, f"audit-{self._created}"), spec)

    def _apply(self, key: ResourceKey, spec: Mapping[str, Any], *, immutable: bool = False) -> None:
        stored = self.resources.get(key)
        if stored is not None and (immutable or stored.deleting):
            return
        self.resources.apply(key, spec, labels={})

    # The whole story.

    def run(self) -> None:
        """Faults for a while, then none; everything must come to rest.

        Raises:
            Violation: If something happened that must not, or something never ended.
        """
        with self._virtual():
            for name in self.budgets:
                self.declare_budget(name)
            for _ in range(3):
                self.declare_study()
            self.look()
            self.check()
            self.chaos.active = True
            for _ in range(STEPS):
                self.step()
            self.chaos.active = False
            self._come_to_rest()

    @contextmanager
    def _virtual(self) -> Iterator[None]:
        clock = mock.Mock(monotonic=lambda: self.monotonic)
        silent = _Silent(self.auditor, self.said)
        with mock.patch.object(loop, "time", clock), mock.patch.object(loop, "log", silent):
            yield

    def _come_to_rest(self) -> None:
        self.loops = [self._fresh_loop(), self._fresh_loop()]
        self._set_the_clock_right()
        for name in self.budgets:
            self.declare_budget(name)
        for _ in range(LOOKS_MAX):
            self.look()
            self.check()
            while self.runner.progress():
                self.check()
            self.pass_time(70.0)
            for name in self.budgets:
                self.declare_budget(name)
            if not self._restless():
                break
        restless = self._restless()
        if restless:
            raise Violation(
                f"{len(restless)} never came to rest; last said {self.said[-2:]}; "
                f"{'; '.join(restless)}"
            )
        self.look()
        self._after_look()
        self.check()
        self.auditor.ended(self.publisher.published)
        contradictions = self.ledger.verify()
        if contradictions:
            raise Violation(f"the ledger contradicts itself: {contradictions}")

    def _set_the_clock_right(self) -> None:
        """Leases and waits end by the ledger's time, which follows no clock that went back."""
        latest = self.ledger.store.rows.head.time
        while self.clock.now() < latest:
            self.clock.advance(600.0)

    def _restless(self) -> list[str]:
        found = []
        for stored in self.resources.list("Study"):
            if stored.deleting or not advance.is_terminal(stored):
                found.append(f"{stored.key} {stored.status.get('conditions')}")
        for stored in self.resources.list("AuditRun"):
            ended = condition(stored.status, ConditionType.SUCCEEDED)
            if stored.deleting or ended is None or ended.status is Status.UNKNOWN:
                found.append(f"{stored.key} {stored.status}")
        found += [str(r.key) for r in self.resources.list("Release") if r.deleting]
        found += [str(r.key) for r in self.resources.list("PrivacyBudget") if r.deleting]
        return found


class _Before:
    """A signer whose witness sees what is about to be signed."""

    def __init__(self, port: Any, witness: Callable[..., None] | None) -> None:
        self._port, self._witness = port, witness

    def sign(self, payload_type: str, payload: bytes) -> Mapping[str, Any]:
        if self._witness is not None:
            witnessed(self._witness, payload_type, payload)
        signed: Mapping[str, Any] = self._port.sign(payload_type, payload)
        return signed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)


class _Witnessed:
    """Lineage that nobody disturbs (it never raises) and the auditor reads."""

    def __init__(self, lineage: memory.MemoryLineage, auditor: Auditor) -> None:
        self._lineage, self._auditor = lineage, auditor

    def emit(self, event: Mapping[str, Any]) -> None:
        self._auditor.shown(json.dumps(event, default=str))
        self._lineage.emit(event)

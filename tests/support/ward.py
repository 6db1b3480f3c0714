"""A ward: the simulated hospital with faults off, in which every step does what the test says."""

from __future__ import annotations

from typing import ClassVar

from simulated.jobs import ATTACK, KIND
from simulated.world import BUDGETS, NAMESPACE, World

from primum.application import advance, budgets, observing
from primum.application.platform import Platform
from primum.domain.conditions import ConditionType
from primum.domain.names import ResourceKey
from primum.domain.study.lifecycle import Action
from primum.resources import conversion, status


class Ward(World):
    """Short words for what tests do to a platform."""

    budgets: ClassVar = {name: (uri, policy, "3.0") for name, (uri, policy, _) in BUDGETS.items()}

    def __init__(self):
        self.moods = {}
        self.step_now = ""
        super().__init__(0)
        self._worker._moods = self
        self.declare_budget("scans")

    def choice(self, _options):
        """What a body does: well, unless the test wants something else of its step."""
        return self.moods.get(self.step_now, "well")

    def _execute(self, context):
        self.step_now = context.step
        return super()._execute(context)

    def declare_budget(self, name="scans"):
        super().declare_budget(name)
        self.look_at_budgets()

    def look_at_budgets(self):
        for stored in self.resources.list("PrivacyBudget"):
            budgets.reconcile_budget(self.platform, stored)

    def key(self, kind, name):
        return ResourceKey(kind, NAMESPACE, name)

    def get(self, kind, name):
        return self.resources.get(self.key(kind, name))

    def study(self, name="one", *, budgets=("scans",), steps="10", endpoint="risk", **changes):
        """Declare a Study; gives its key."""
        spec = {
            "purpose": "Try everything",
            "data": [{"role": "Private", "budget": budget} for budget in budgets],
            "privacy": {"epsilon": "2.0", "delta": "1e-5"},
            "job": {"kind": KIND, "parameters": {"steps": steps, "noise": "4"}},
            "audits": [{"kind": "Membership", "attack": ATTACK}],
        }
        if endpoint:
            spec["release"] = {"endpoint": endpoint}
        spec = {field: value for field, value in {**spec, **changes}.items() if value is not None}
        key = self.key("Study", name)
        self.resources.apply(key, spec, labels={})
        return key

    def spec(self, key):
        return conversion.study_spec(self.resources.get(key))

    def scene(self, key):
        return observing.observe(self.platform, self.resources.get(key))

    def advance(self, key):
        return advance.advance(self.platform, key)

    def finish(self, key):
        """Advance a Study and its run until there is nothing left to do."""
        for _ in range(20):
            if self.advance(key) is Action.DONE:
                return
            self.runner.progress()
        raise AssertionError(f"{key} did not end: {self.shown(key, 'Succeeded')}")

    def shown(self, key, kind):
        """A condition as 'Status Reason: message'."""
        found = status.condition(self.resources.get(key).status, ConditionType(kind))
        return f"{found.status} {found.reason}: {found.message}".rstrip(": ") if found else ""

    def states(self, key):
        return [
            held.state.value
            for held in self.ledger.reservations(study_uid=self.resources.get(key).uid)
        ]

    def account(self, name="scans"):
        return str(self.get("PrivacyBudget", name).status["accountId"])

    def with_port(self, **ports):
        """The same platform with another adapter at a port."""
        kept = {field: getattr(self.platform, field) for field in Platform.__dataclass_fields__}
        return Platform(**{**kept, **ports})

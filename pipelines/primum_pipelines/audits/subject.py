"""What is attacked: the artifact of a Study, the plan it was made by, and the data inside the zone.

Data is opened only through ``open_private`` with the audit's own declared access, and never leaves
the worker. Light: torch and numpy are imported where they are used.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from primum.domain.accounting.events import (
    Event,
    Gaussian,
    IndividuallyFiltered,
    SubsampledGaussian,
    event_from_json,
    flatten,
)
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, NotFound, Tampered
from primum.domain.quantities import parse_decimal
from primum.domain.study.plan import Access, Plan, Treatment, plan_from_json
from primum_pipelines.optimization.settings import STOPPING_PURPOSE, ClippingRule

if TYPE_CHECKING:
    from primum.domain.study.steps import WorkRequest
    from primum_pipelines.attacks.membership import ShadowSet
    from primum_pipelines.attacks.shadow_cache import ShadowCache
    from primum_pipelines.audits.audit import ThreatModel
    from primum_pipelines.datasets.table import UnitTable
    from primum_pipelines.models.artifact import LoadedModel
    from primum_pipelines.optimization.algorithm import TrainingAlgorithm

ALGORITHM_GROUP = "primum.training_algorithms"
ALGORITHM_DEFAULT = "DPSGD"
SEARCH = "search"  # Where a plan's mechanism says what a search is.
AUDIT_STEP = "audit"
JOB_STEP = "job"
FEDERATE = "Federate"


@dataclass(frozen=True, slots=True)
class PlannedMechanism:
    """One charged mechanism of the plan, as its event states it.

    Args:
        budget: The budget that it is charged to; empty where only the plan's facts are known.
        noise_multiplier: Relative to the add-or-remove sensitivity.
        sample_rate: Poisson rate; 1 for a release over all units.
        steps: How often; with individual filters the steps of their bound.
        max_grad_norm: Clipping bound.
        filter_orders: Renyi orders of the individual filters; empty without filters. What is
            proved with them is the Renyi curve of the bound at these orders, and no more.
        clipping: How unit gradients are brought to the bound.
        searched: Of a search what all its trials did together, whatever was selected; the other
            figures are those of its most costly trial. ``None`` without a search. What is proved of
            a search is the Renyi curve of this event, and no more.
    """

    budget: str
    noise_multiplier: float
    sample_rate: float
    steps: int
    max_grad_norm: float
    filter_orders: tuple[int, ...] = ()
    clipping: ClippingRule = ClippingRule.FLAT
    searched: Event | None = None


@dataclass(slots=True, repr=False)
class Held:
    """What a step has loaded, for all of its audits; goes with the step.

    Args:
        model: The model under attack.
        table: The private data that the audits' access opens.
        site_tables: Of a federation the private data of the other sites, by budget.
        others: Public and released inputs.
        shadows: Shadows that audits of this step have trained, by key.
    """

    model: LoadedModel | None = None
    table: UnitTable | None = None
    site_tables: dict[str, UnitTable] | None = None
    others: tuple[UnitTable, ...] | None = None
    shadows: dict[str, ShadowSet] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, repr=False)
class AuditSubject:
    """A Study's result and how it was planned.

    Args:
        request: What the audit step was given.
        plan: The Study's plan.
        mechanisms: Its charged mechanisms.
        artifacts: Artifacts of the job by kind: ``{"kind", "uri", "digest"}``.
        held: What was loaded of it so far.
    """

    request: WorkRequest
    plan: Plan
    mechanisms: tuple[PlannedMechanism, ...]
    artifacts: Mapping[str, Mapping[str, JSON]]
    held: Held = field(default_factory=Held, compare=False)

    @property
    def claim(self) -> float:
        """The claimed epsilon."""
        return float(self.plan.epsilon)

    @property
    def delta(self) -> float:
        """The delta of the claim."""
        return float(self.plan.delta)

    @property
    def digest(self) -> str:
        """Digest of the artifact under attack, or empty where the job left none."""
        for kind in ("Model", "Dataset", "Generator"):
            if kind in self.artifacts:
                return str(self.artifacts[kind]["digest"])
        return ""

    def stated(self, threat: ThreatModel) -> dict[str, JSON]:
        """What every audit states in public: who attacks, and the claim that is attacked."""
        return {
            "threatModel": threat.to_json(),
            "claim": str(self.plan.epsilon),
            "delta": str(self.plan.delta),
        }

    def released_by(self) -> PlannedMechanism:
        """The mechanism that made the artifact; the most revealing one where there are several.

        Raises:
            InvalidValue: If the plan charges none.
        """
        if not self.mechanisms:
            raise InvalidValue("plan", "must have a charged mechanism", self.plan.kind)
        return max(
            self.mechanisms,
            key=lambda item: (
                item.sample_rate * math.sqrt(item.steps) / item.noise_multiplier
                if item.noise_multiplier
                else math.inf
            ),
        )

    def artifact_bytes(self, kind: str) -> bytes:
        """The bytes of an artifact of the job, checked against its recorded digest.

        Raises:
            NotFound: If the job left none of that kind, or it is gone.
            Tampered: If the bytes are not those recorded.
        """
        if kind not in self.artifacts:
            raise NotFound(f"job must have left an artifact of kind {kind}; found none.")
        from primum_pipelines import artifacts

        reference = self.artifacts[kind]
        return artifacts.fetch(str(reference["uri"]), digest=str(reference["digest"]))

    def artifact_json(self, kind: str) -> Mapping[str, JSON]:
        """An artifact that is a JSON object.

        Raises:
            NotFound: As ``artifact_bytes``.
            Tampered: If it is not the object that was recorded.
        """
        value = json.loads(self.artifact_bytes(kind))
        if not isinstance(value, dict):
            raise Tampered(f"artifact {kind} must be a JSON object; found something else.")
        return value

    def algorithm(self) -> TrainingAlgorithm:
        """What the Study's mechanism ran in, found by name as the job found it.

        Raises:
            NotFound: If it is not installed here.
        """
        from primum import extensions

        name = str(self.plan.mechanism.get("algorithm", ALGORITHM_DEFAULT))
        algorithm: TrainingAlgorithm = extensions.load(ALGORITHM_GROUP, name)()
        return algorithm

    def model(self) -> LoadedModel:
        """The trained model, loaded once; a copy, so that no audit can spoil the next one's.

        Raises:
            InvalidValue: If the Study made samples or a generator instead.
            NotFound: If the job left none.
            Tampered: If its bytes are not those recorded.
        """
        from primum_pipelines.models.artifact import from_bytes

        if "Model" not in self.artifacts and {"Dataset", "Generator"} & set(self.artifacts):
            rule = (
                "must be one of those for samples and generators: the Study trained no classifier"
            )
            raise InvalidValue("spec.audits.attack", rule, "one for classifiers")
        if self.held.model is None:
            self.held.model = from_bytes(self.artifact_bytes("Model"))
        return replace(self.held.model, module=copy.deepcopy(self.held.model.module))

    def samples(self) -> UnitTable:
        """The samples that were released.

        Raises:
            InvalidValue: If the Study trained a model instead.
            NotFound: If the job left none.
            Tampered: If their bytes are not those recorded.
        """
        from primum_pipelines.synthesis import archive

        if "Dataset" not in self.artifacts and "Model" in self.artifacts:
            rule = "must be one of those for models: the Study released no samples"
            raise InvalidValue("spec.audits.attack", rule, "one for samples")
        return archive.from_bytes(self.artifact_bytes("Dataset"))

    def other_tables(self) -> tuple[UnitTable, ...]:
        """The Study's public and released inputs, as its job saw them; opened once.

        Raises:
            NotFound: If one is nowhere.
            Tampered: If released data is not what was released.
        """
        from primum_pipelines.datasets.access import open_others

        if self.held.others is None:
            self.held.others = tuple(item.table for item in open_others(self.request))
        return self.held.others

    def table(self) -> UnitTable:
        """The private data that the audit's access opens; opened once, and not to be changed.

        Of several, the one under the most revealing mechanism: where an attack finds most.

        Raises:
            Refused: If there is no valid token for it.
            NotFound: If the plan declares no access for audits.
            InvalidValue: If its labels are not one class per row.
        """
        if self.held.table is None:
            self.held.table = self._opened(self._accesses()[0])
        return self.held.table

    def site_order(self) -> tuple[str, ...]:
        """Budgets of a federation's sites, that of ``table`` first; empty for other kinds.

        Raises:
            NotFound: If the plan declares no access for audits of a site.
        """
        if self.plan.kind != FEDERATE:
            return ()
        sites = _mapping(self.plan.parameters.get("sites", {}))
        found = tuple(access.budget for access in self._accesses())
        if set(found) != set(sites):
            raise NotFound("plan must declare an access for audits of every site; found fewer.")
        return found

    def other_sites(self) -> tuple[UnitTable, ...]:
        """Private data of a federation's other sites, in their order; opened once.

        Raises:
            Refused: If there is no valid token for one.
            NotFound: If the plan declares no access for audits of a site.
            InvalidValue: If labels are not one class per row.
        """
        budgets = self.site_order()[1:]
        if self.held.site_tables is None:
            opened = {access.budget: access for access in self._accesses()}
            self.held.site_tables = {name: self._opened(opened[name]) for name in budgets}
        return tuple(self.held.site_tables[name] for name in budgets)

    def shadow_cache(self) -> ShadowCache | None:
        """Where shadows of that data may be kept; ``None`` where the process knows no zone.

        Raises:
            Refused: If there is no valid token for the data.
            NotFound: If the plan declares no access for audits.
        """
        from primum_pipelines.attacks.shadow_cache import ShadowCache
        from primum_pipelines.datasets.access import token_claims

        if not self.request.zone_dir:
            return None
        # Shadows of a federation have records of every site.
        used = self._accesses() if self.plan.kind == FEDERATE else self._accesses()[:1]
        claims = [token_claims(self.request, access.name) for access in used]
        study = _mapping(self.request.context["study"])
        attacked = str(study.get("audits") or study["uid"]).partition("/")[0]
        accounts = [(str(item["accountId"]), int(str(item["withdrawn"]))) for item in claims]
        return ShadowCache(
            self.request.zone_dir,
            account=accounts[0][0],
            study=attacked,
            withdrawn=accounts[0][1],
            others=tuple(accounts[1:]),
        )

    def _opened(self, access: Access) -> UnitTable:
        from primum_pipelines.datasets.access import open_private
        from primum_pipelines.datasets.table import LabelTask

        table = open_private(self.request, access.name)
        if table.task is not LabelTask.MULTI_CLASS:
            rule = "must be one class per row for attacks that open data"
            raise InvalidValue("dataset labels", rule, table.task.value)
        return table

    def _accesses(self) -> list[Access]:
        """What the plan declares for audits, of the most revealing mechanism first."""
        declared = [access for access in self.plan.accesses if access.step == AUDIT_STEP]
        if not declared:
            raise NotFound("plan must declare an access for audits; found none.")
        budget = self.released_by().budget
        return sorted(declared, key=lambda access: access.budget != budget)


def subject_of(request: WorkRequest) -> AuditSubject:
    """What an audit step is to attack.

    Args:
        request: The step's request.

    Returns:
        The subject. Artifacts come from the outcome of the job step.
    """
    plan = plan_from_json(_mapping(request.context["plan"]))
    job = _mapping(request.inputs.get(JOB_STEP, {}))
    items = job.get("artifacts", [])
    artifacts = {
        str(item["kind"]): item
        for item in (items if isinstance(items, list | tuple) else [])
        if isinstance(item, Mapping)
    }
    return AuditSubject(request, plan, mechanisms_of(plan), artifacts)


def mechanisms_of(plan: Plan) -> tuple[PlannedMechanism, ...]:
    """The charged mechanisms of a plan, read from their events: facts, not descriptions.

    An AuditRun's plan holds audit accesses alone; there the mechanism's planned facts speak.

    Raises:
        InvalidValue: If the plan trains and does not state its clipping bound.
    """
    charged = [
        access
        for access in plan.accesses
        if access.treatment is Treatment.CHARGED
        # Looks at held-out units train nothing.
        and access.name.split("@", 1)[0] != STOPPING_PURPOSE
    ]
    if not charged or SEARCH in plan.mechanism:
        return _described(plan, budget=charged[0].budget if charged else "")
    found = []
    for access in charged:
        for leaf, count, orders in _gaussians(access.event):
            rate = leaf.sample_rate if isinstance(leaf, SubsampledGaussian) else Decimal(1)
            found.append(
                PlannedMechanism(
                    budget=access.budget,
                    noise_multiplier=float(leaf.noise_multiplier),
                    sample_rate=float(rate),
                    steps=count,
                    max_grad_norm=_clip(plan),
                    filter_orders=orders,
                    clipping=_clipping(plan),
                )
            )
    return tuple(found)


def _gaussians(
    event: Event,
) -> Iterator[tuple[Gaussian | SubsampledGaussian, int, tuple[int, ...]]]:
    """Gaussian mechanisms with their counts and the orders of the filters around them."""
    for leaf, count in flatten(event):
        if isinstance(leaf, IndividuallyFiltered):
            for inner, steps, _ in _gaussians(leaf.bound):
                yield inner, steps * count, leaf.orders
        elif isinstance(leaf, Gaussian | SubsampledGaussian):
            yield leaf, count, ()


def _described(plan: Plan, *, budget: str = "") -> tuple[PlannedMechanism, ...]:
    sites = plan.mechanism.get("sites")
    described = dict(sites) if isinstance(sites, Mapping) else {budget: plan.mechanism}
    search = _mapping(plan.mechanism.get(SEARCH, {}))
    found = []
    for name, value in described.items():
        facts = _mapping(value)
        if not {"noiseMultiplier", "sampleRate", "steps"} <= set(facts):
            continue
        rule = _mapping(facts.get("individualFilter", {}))
        found.append(
            PlannedMechanism(
                budget=name,
                noise_multiplier=_number(facts, "noiseMultiplier"),
                sample_rate=_number(facts, "sampleRate"),
                steps=int(_number(rule, "boundSteps") if rule else _number(facts, "steps")),
                max_grad_norm=_clip(plan),
                filter_orders=_orders(rule),
                clipping=_clipping(plan),
                searched=event_from_json(json.loads(str(search["event"]))) if search else None,
            )
        )
    return tuple(found)


def _orders(rule: Mapping[str, JSON]) -> tuple[int, ...]:
    orders = rule.get("orders", [])
    if not isinstance(orders, list | tuple):
        raise InvalidValue("plan.mechanism.individualFilter.orders", "must be a list", str(orders))
    return tuple(int(str(order)) for order in orders)


def _clip(plan: Plan) -> float:
    for source in (plan.mechanism, plan.parameters):
        for name in ("maxGradNorm", "clip"):
            if name in source:
                return _number(source, name)
    raise InvalidValue("plan.mechanism.maxGradNorm", "must state the clipping bound", "nothing")


def _clipping(plan: Plan) -> ClippingRule:
    return ClippingRule(str(plan.mechanism.get("clipping", ClippingRule.FLAT.value)))


def _number(facts: Mapping[str, JSON], name: str) -> float:
    return float(parse_decimal(f"plan.mechanism.{name}", str(facts[name])))


def _mapping(value: JSON) -> Mapping[str, JSON]:
    if not isinstance(value, Mapping):
        raise InvalidValue("request", "must hold JSON objects", type(value).__name__)
    return value

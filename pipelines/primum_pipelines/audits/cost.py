"""What a planned audit would cost: a short run of the same program on random numbers.

Reads a plan and public facts of datasets; opens nothing, and what it trains on is noise of the same
shape. Says that nobody knows rather than guess.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from primum import extensions
from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue, NotFound
from primum.domain.study.plan import Plan, plan_from_json
from primum.domain.study.steps import WorkRequest
from primum_pipelines.audits.membership import ShadowAudit
from primum_pipelines.audits.shadow_recipe import program_of
from primum_pipelines.audits.subject import FEDERATE, AuditSubject, Held, mechanisms_of
from primum_pipelines.datasets.driver import describe
from primum_pipelines.kinds.train.run_record import EXECUTED
from primum_pipelines.steps import records

if TYPE_CHECKING:
    import torch

    from primum_pipelines.attacks.membership import Effort
    from primum_pipelines.attacks.pool import Pool
    from primum_pipelines.attacks.shadow_program import Program

GROUP = "primum.audits"
METHOD = "a short run on random numbers of the same shape, CPU seconds, scaled"
METHOD_GPU = "a short run on random numbers of the same shape, seconds on this GPU, scaled"
ERROR_FACTOR = 3  # Of measured estimates on one machine; see docs/audits.md.
_MODELS_TRIED = 8
_APART_TRIED = 2  # Of models that are trained one after another.
_STEPS_TRIED = 3
_RECORDS_TRIED = 2000
_ROWS_TRIED_MAX = 8000
_FLOAT_BYTES = 4
_ROWS_AT_ONCE = 4096  # As the stacked program holds at once.
_COPIES = 5  # Parameters, gradients, sums, noise, and one slot of the optimizer.
_LEAST_SHADOWS = 4


@dataclass(frozen=True, slots=True)
class Tried:
    """What a trial says.

    Args:
        seconds: Of the whole audit, on the device that it was tried on.
        memory_bytes: What it would hold at once.
        way: ``stacked``, or why shadows are trained one after another.
        groups: In how many parts other workers could help.
    """

    seconds: float
    memory_bytes: int
    way: str
    groups: int

    def elapsed(self, workers: int) -> float:
        """How long it takes where so many work beside each other, as far as parts go round."""
        return self.seconds / max(1, min(workers, self.groups))


def estimate(payload: Mapping[str, JSON]) -> list[dict[str, JSON]]:
    """What each audit of a plan would cost on this machine.

    Args:
        payload: ``plan``; ``datasets`` by budget with ``uri``, ``options`` and ``units``;
            ``audits`` with ``kind``, ``attack`` and ``parameters``; ``gpusPerWorker``, default 0;
            ``workers`` and ``cpusPerWorker``, default 1, for how long it takes where they share it.

    Returns:
        Per audit ``attack``, ``cpuSeconds``, ``elapsedSeconds``, ``gpuSeconds`` and ``memoryBytes``
        as decimal strings, ``cpus``, ``shadows`` and ``method``; only ``attack`` and ``method``,
        saying why, where nobody knows.
    """
    plan = plan_from_json(records.mapping(payload["plan"]))
    audits = payload["audits"]
    if isinstance(audits, str) or not isinstance(audits, list | tuple):
        raise InvalidValue("audits", "must be a list", type(audits).__name__)
    return [_one(plan, payload, records.mapping(item)) for item in audits]


def _one(plan: Plan, payload: Mapping[str, JSON], asked: Mapping[str, JSON]) -> dict[str, JSON]:
    import torch

    name = str(asked["attack"])
    # Federations are trained on CPUs, whatever their workers have.
    on_gpu = float(str(payload.get("gpusPerWorker", 0))) > 0 and plan.kind != FEDERATE
    cpus = 1 if on_gpu else _cpus(payload)
    try:
        audit = extensions.load(GROUP, name)()
        if not isinstance(audit, ShadowAudit):
            return _unknown(name, "no shadows are trained, and no run of it is on record")
        if on_gpu and not torch.cuda.is_available():
            return _unknown(name, "a GPU is asked for, and this machine has none to try it on")
        subject, units = _planned(plan, payload)
        effort = audit.attack(subject, records.mapping(asked.get("parameters") or {})).effort
        found = tried(subject, effort, units=units)
    except (InvalidValue, NotFound) as problem:
        return _unknown(name, str(problem))
    seconds = decimal_text(round(found.seconds, 1))
    way = "" if found.way == "stacked" else f"; shadows one after another: {found.way}"
    return {
        "attack": name,
        "shadows": effort.shadows,
        "cpuSeconds": seconds,  # A core drives the GPU all the time.
        "cpus": min(cpus, found.groups),
        "elapsedSeconds": decimal_text(round(found.elapsed(cpus), 1)),
        "gpuSeconds": seconds if on_gpu else "0",
        "memoryBytes": decimal_text(found.memory_bytes),
        "method": f"{METHOD_GPU if on_gpu else METHOD}{way}",
        "errorFactor": ERROR_FACTOR,
    }


def _cpus(payload: Mapping[str, JSON]) -> int:
    """CPUs that the Study's audits have, as it asks for them."""
    workers, each = (int(str(payload.get(name) or 1)) for name in ("workers", "cpusPerWorker"))
    return workers * each


def tried(subject: AuditSubject, effort: Effort, *, units: Mapping[str, int]) -> Tried:
    """Try an attack by shadows on random numbers, where it would run.

    Args:
        subject: The Study; its model says shapes.
        effort: How hard the attack tries.
        units: Units of its data, by budget; shadows of a federation have records of all sites.

    Raises:
        InvalidValue: If the plan does not say how it trains.
        NotFound: If it is of a federation and does not let audits open every site.
    """
    from primum_pipelines.attacks.shadow_groups import group_of

    program = program_of(subject, effort.shadowing)
    rows_each = max(1, int(str(subject.plan.parameters.get("unitExamplesMax", 1))))
    sites = subject.site_order()
    sizes = [units[name] for name in sites] if sites else [max(units.values())]
    sizes = [min(effort.pool, size) for size in sizes]
    rows = sum(sizes)
    most = min(_RECORDS_TRIED, _ROWS_TRIED_MAX // rows_each)
    shares = [max(_LEAST_SHADOWS, min(size, size * most // rows)) for size in sizes]
    count = sum(shares)
    pool = _noise(program, records=count, rows_each=rows_each)
    if sites:
        pool = replace(pool, sites=_numbers(shares))
    apart = program.apart(pool)
    seconds = _seconds(program, pool, effort, models=_APART_TRIED if apart else _MODELS_TRIED)
    memory = _memory(program, effort, rows=rows * rows_each, apart=bool(apart))
    size = group_of(len(program.architecture.input_shape), program.device, sites=len(sizes))
    groups = math.ceil(effort.shadows / size)
    return Tried(seconds * rows / count, memory, apart or "stacked", groups)


def too_long(
    subject: AuditSubject,
    audit: ShadowAudit,
    parameters: Mapping[str, JSON],
    *,
    units: Mapping[str, int],
    seconds: float,
    workers: int,
) -> str:
    """Why an audit would not end in time, with a remedy; empty where it would.

    Args:
        subject: The Study.
        audit: The audit.
        parameters: As the Study gives them.
        units: Units of its data, by budget.
        seconds: How long it may take.
        workers: How many share the work.

    Raises:
        InvalidValue: If a parameter breaks its rule.
    """
    effort = audit.attack(subject, parameters).effort
    needed = tried(subject, effort, units=units).elapsed(workers)
    if needed <= seconds:
        return ""
    fewer = int(effort.shadows * seconds / needed) // 2 * 2
    less = f", or at most {fewer} shadows" if fewer >= _LEAST_SHADOWS else ""
    return (
        f"spec.activeDeadlineSeconds must be above the estimated cost; found {seconds:.0f} s for "
        f"an estimate of {needed:.0f} s. Give it a longer one{less}."
    )


def _unknown(attack: str, why: str) -> dict[str, JSON]:
    return {"attack": attack, "method": f"unknown: {why}"}


def _planned(plan: Plan, payload: Mapping[str, JSON]) -> tuple[AuditSubject, dict[str, int]]:
    """A Study that was not run: its model is an untrained one, and nothing else can be opened."""
    from primum_pipelines.models.artifact import LoadedModel, ModelSpec
    from primum_pipelines.models.registry import build

    name = plan.mechanism.get("model")
    if not isinstance(name, str):
        raise InvalidValue("plan.mechanism.model", "must name the architecture", "nothing")
    shape, classes, units = _facts(payload)
    given = records.mapping(plan.parameters.get("modelParameters") or {})
    module = build(name, given, input_shape=shape, classes=len(classes))
    spec = ModelSpec(name, given, shape, classes, classes[-1], (), (), (), study="")
    resources: dict[str, JSON] = {"gpusPerWorker": payload.get("gpusPerWorker", 0)}
    request = WorkRequest(
        context={"resources": resources},
        tokens={},
        public_key="",
        artifacts_uri="",
        data_dirs=[],
        inputs={},
    )
    held = Held(model=LoadedModel(module.eval(), spec), others=())
    return AuditSubject(request, plan, mechanisms_of(plan), {}, held), units


def _facts(
    payload: Mapping[str, JSON],
) -> tuple[tuple[int, ...], tuple[str, ...], dict[str, int]]:
    """Shape of a record, classes and units by budget, from what drivers say in public."""
    datasets = records.mapping(payload["datasets"])
    units = units_of(datasets)
    for value in datasets.values():
        dataset = records.mapping(value)
        options = records.mapping(dataset.get("options") or {})
        known = describe(str(dataset["uri"]), options)
        shape, classes = known.get("inputShape"), known.get("classes")
        if not isinstance(shape, list | tuple) or not isinstance(classes, list | tuple):
            continue
        if shape and classes:
            lengths = tuple(int(str(length)) for length in shape)
            return lengths, tuple(str(item) for item in classes), units
    raise NotFound("shape and classes of the records are not known before the data is opened")


def units_of(datasets: Mapping[str, JSON]) -> dict[str, int]:
    """Units of each dataset of a request, by budget."""
    return {name: int(str(records.mapping(one)["units"])) for name, one in datasets.items()}


def _numbers(sizes: Sequence[int]) -> torch.Tensor:
    """The number of each record's site."""
    import torch

    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def _noise(program: Program, *, records: int, rows_each: int) -> Pool:
    """Records of noise, each a unit with as many rows as a unit may have."""
    import torch

    from primum_pipelines.attacks.pool import Contributions, Pool

    generator = torch.Generator().manual_seed(0)
    shape, classes = program.architecture.input_shape, program.architecture.classes
    count = records * rows_each
    inputs = torch.rand((count, *shape), generator=generator) * 2 - 1
    labels = torch.randint(classes, (count,), generator=generator)
    owners = torch.arange(records).repeat_interleave(rows_each)
    return Pool(
        inputs=inputs[::rows_each],
        labels=labels[::rows_each],
        members=torch.ones(records, dtype=torch.bool),
        duplicates=0,
        contributions=Contributions(inputs, labels, owners) if rows_each > 1 else None,
    )


def _seconds(program: Program, pool: Pool, effort: Effort, *, models: int) -> float:
    """Seconds of the whole attack on that pool."""
    import torch

    from primum_pipelines.attacks.shadows import complementary_halves

    models = min(models, effort.shadows)
    generator = torch.Generator().manual_seed(0)
    had = complementary_halves(models, len(pool.labels), generator=generator)
    clock = _clock(program)
    # What takes time again and again: a step, or a federation's round of local steps.
    repeated = "steps" if pool.sites is None else "rounds"
    told = {n: value for n, value in program.parameters.items() if n != EXECUTED}

    def trained(times: int) -> tuple[float, Mapping[str, torch.Tensor]]:
        start = clock()
        short = replace(program, parameters={**told, repeated: times})
        stack = short.train(pool, had, seed=0)
        return clock() - start, stack

    trained(1)  # Warm-up.
    once, _ = trained(1)
    more, stack = trained(1 + _STEPS_TRIED)
    step = max(0.0, more - once) / _STEPS_TRIED
    start = clock()
    program.answers(dict(stack), pool.inputs[pool.attacked])
    query = clock() - start
    steps = int(str(program.parameters.get(EXECUTED, program.parameters[repeated])))
    return effort.shadows / models * (step * steps + query * effort.queries)


def _clock(program: Program) -> Callable[[], float]:
    """CPU time, since wall time lies on a busy machine; a GPU's work is waited for."""
    import torch

    if program.device.type == "cpu":
        return time.process_time

    def waited() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return waited


def _memory(program: Program, effort: Effort, *, rows: int, apart: bool) -> int:
    """Weights of all shadows, what is held at once, the pool and its answers."""
    import torch

    module, shape = program.fresh(), program.architecture.input_shape
    weights = sum(parameter.numel() for parameter in module.parameters())
    seen: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda _m, given, out: seen.append(_held(given, out)))
        for layer in module.modules()
        if not list(layer.children())
    ]
    with torch.no_grad():
        module(torch.zeros((1, *shape)))
    for hook in hooks:
        hook.remove()
    rate = float(str(program.parameters["sampleRate"]))
    batch = max(1, math.ceil(rate * rows / 2))
    together = 1 if apart else effort.shadows
    at_once = max(batch, min(together * batch, _ROWS_AT_ONCE))
    answers = effort.shadows * rows * effort.queries * program.architecture.classes * 2
    pool = rows * math.prod(shape) * (1 + effort.queries)
    stack = (effort.shadows + (_COPIES - 1) * together) * weights
    held = stack + 2 * at_once * sum(seen) + answers + pool
    return int(held) * _FLOAT_BYTES


def _held(given: tuple[torch.Tensor, ...], out: torch.Tensor) -> int:
    return int(out.numel()) + sum(int(item.numel()) for item in given)

"""Run records of each framework, read into one vocabulary.

A record is recognized by its fields. What a format's own definition fixes (Opacus clips per record,
LocalDpMod states epsilon per round) is filled in here and nowhere else.
"""

from __future__ import annotations

import base64
import enum
import math
from collections.abc import Mapping
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any

from primum.domain.conformance.budgets import individual_budgets
from primum.domain.conformance.fields import Fields, decoded, number, whole
from primum.domain.conformance.receipts import study_records
from primum.domain.conformance.records import (
    Accounting,
    Claim,
    Divisor,
    Mechanism,
    Phase,
    RecordFormat,
    Restart,
    RunRecord,
    Sampling,
    Scope,
    Unit,
    Weighting,
)
from primum.domain.errors import InvalidValue
from primum.domain.quantities import Neighbors

RECORDS_MAX = 1000  # Records of one file.
_SIGMA_TOLERANCE = 0.01  # A log shows four digits of the noise.
_RATES = Context(prec=28, rounding=ROUND_CEILING)  # A sampling rate rounds up.
_TRIPLE = 3  # Opacus' history: noise multiplier, sample rate, steps.
_PHASES_MAX = 999  # One less than a composed event may have parts: missing steps are added.


class _FlowerSampling(enum.StrEnum):
    """Flower's names for what its accountant assumes."""

    NONE = "no-amplification"
    POISSON = "poisson"
    FIXED = "without-replacement"


_ASSUMED = {
    _FlowerSampling.NONE: Sampling.FULL,
    _FlowerSampling.POISSON: Sampling.POISSON,
    _FlowerSampling.FIXED: Sampling.FIXED_SIZE,
}


def read_records(text: str, *, name: str) -> tuple[RunRecord, ...]:
    """The run records of one file.

    Args:
        text: JSON: one record, or a list of them.
        name: What to call a record that has no name.

    Returns:
        At least one.

    Raises:
        InvalidValue: If a record is damaged; names the field, the rule and the remedy.
        UnsupportedEvent: If a receipt holds a mechanism that cannot be rechecked.
    """
    value = decoded(text)
    items = value if isinstance(value, list) else [value]
    if not 1 <= len(items) <= RECORDS_MAX:
        raise InvalidValue("record", f"must be 1 to {RECORDS_MAX} records", len(items))
    found: list[RunRecord] = []
    for index, item in enumerate(items):
        found += _read(item, name if len(items) == 1 else f"{name}[{index}]")
    return tuple(found)


def _read(value: object, name: str) -> list[RunRecord]:
    if not isinstance(value, Mapping):
        raise InvalidValue("record", "must be an object", type(value).__name__)
    if "payload" in value and "payloadType" in value:
        return _read(_payload(value["payload"]), name)
    keys = {str(key).replace("_", "").lower() for key in value}
    if "receipts" in keys or "predicate" in keys:
        return study_records(value, name=name)
    if "history" in keys or "accountant" in keys:
        return [_opacus(Fields(value, "record"), name)]
    if "numsampledclients" in keys:
        return [_flower_server(Fields(value, "record"), name)]
    if "clippingnorm" in keys:
        return [_flower_local(Fields(value, "record"), name)]
    if "noisestandarddeviation" in keys:
        return [_plain(Fields(value, "record"), name)]
    raise InvalidValue(
        "record",
        "must be an Opacus history, a Flower configuration, a plain run record, or Study receipts",
        ", ".join(sorted(str(key) for key in value)) or "nothing",
        "Give history, clippingNorm, noiseStandardDeviation or receipts; see docs/conformance.md.",
    )


def _payload(value: object) -> object:
    """What a DSSE envelope holds; its signature is `primum certificate verify`'s business."""
    try:
        text = base64.b64decode(str(value), validate=True).decode()
    except ValueError:  # Not base64, not ASCII, or not UTF-8 inside.
        raise InvalidValue("record.payload", "must be base64 of JSON", "other bytes") from None
    return decoded(text)


def _claim(
    fields: Fields,
    *,
    unit: Unit | None = None,
    neighbors: Neighbors | None = None,
    accounting: Accounting = Accounting.UNSTATED,
) -> Claim:
    claim = fields.child("claim", 'Write "claim": {"epsilon": ..., "delta": ...}.')
    found = Claim(
        epsilon=_positive(claim, "epsilon"),
        delta=_delta(claim),
        unit=claim.choice("unit", Unit, unit),
        neighbors=claim.choice("neighbors", Neighbors, neighbors),
        scope=claim.choice("scope", Scope, Scope.TOTAL),
        accounting=claim.choice("accounting", Accounting, accounting),
    )
    claim.finish()
    return found


def _positive(fields: Fields, field: str, *, most: Decimal | None = None) -> Decimal:
    found = fields.decimal(field) if most is None else fields.decimal(field, high=most)
    if found == 0:
        raise InvalidValue(fields.name(field), "must be above 0", "0")
    return found


def _delta(fields: Fields) -> Decimal:
    found = _positive(fields, "delta", most=Decimal(1))
    if found == 1:
        raise InvalidValue(fields.name("delta"), "must be below 1", "1")
    return found


def _history(run: Fields) -> tuple[tuple[Phase, ...], Accounting]:
    state = run.child("accountant") if "accountant" in run else run
    accounting = state.choice("mechanism", Accounting)
    items = state.items("history")
    if not 1 <= len(items) <= _PHASES_MAX:
        raise InvalidValue(state.name("history"), f"must have 1 to {_PHASES_MAX} rows", len(items))
    phases = []
    for index, row in enumerate(items):
        where = f"{state.name('history')}[{index}]"
        if not isinstance(row, list) or len(row) != _TRIPLE:
            rule = "must be [noise multiplier, sample rate, steps]"
            raise InvalidValue(where, rule, str(row))
        rate = number(f"{where}[1]", row[1], high=Decimal(1))
        if rate == 0:
            raise InvalidValue(f"{where}[1]", "must be above 0", "0")
        phases.append(Phase(number(f"{where}[0]", row[0]), rate, whole(f"{where}[2]", row[2])))
    if state is not run:
        state.finish()
    return tuple(phases), accounting


def _opacus(run: Fields, name: str) -> RunRecord:
    phases, accounting = _history(run)
    loader = Fields(run.raw("dataLoader") or {}, run.name("dataLoader"))
    if "poissonSampling" in loader:
        sampling = Sampling.POISSON if loader.truth("poissonSampling") else Sampling.SHUFFLED
        sampling = loader.choice("sampling", Sampling, sampling)
    else:
        sampling = loader.choice("sampling", Sampling, Sampling.UNKNOWN)
    units, batch = loader.whole_or_none("datasetSize"), loader.whole_or_none("batchSize")
    _fits(loader, units, batch)
    loader.finish()
    unit = run.choice("unit", Unit, Unit.RECORD)
    record = RunRecord(
        name=run.text("name", name),
        source=RecordFormat.OPACUS,
        claim=_claim(run, unit=unit, neighbors=Neighbors.ADD_OR_REMOVE_ONE, accounting=accounting),
        phases=phases,
        unit=unit,
        sampling=sampling,
        assumed_sampling=Sampling.POISSON,  # Opacus' accountants know no other.
        clip=run.decimal_or_none("maxGradNorm"),
        units=units,
        batch_size=batch,
        **_conduct(run),
    )
    run.text("comment", "")
    run.finish()
    return record


def _conduct(run: Fields) -> dict[str, Any]:
    """What happened around the steps; the same fields in every format."""
    restarts, seeds = [], [_seed(run.name("seeds"), seed) for seed in run.items("seeds")]
    reused = False
    for index, item in enumerate(run.items("restarts")):
        restart = Fields(item, f"{run.name('restarts')}[{index}]")
        at, start = restart.whole("atStep", low=0), restart.whole("fromStep", low=0)
        if start > at:
            rule = f"must be at most atStep ({at})"
            raise InvalidValue(restart.name("fromStep"), rule, start)
        if "seed" in restart:
            _require_first_seed(run, seeds)
            seeds.append(_seed(restart.name("seed"), restart.raw("seed")))
        else:
            # Steps after the checkpoint ran twice on the same noise, with other batches.
            reused = reused or (restart.truth("generatorStateRestored") and at > start)
        restart.finish()
        restarts.append(Restart(at, start))
    return {
        "microbatch": run.whole_or_none("microbatch") or 1,
        "divisor": run.choice("divisor", Divisor, Divisor.EXPECTED),
        "restarts": tuple(restarts),
        "executed_steps": run.whole_or_none("executedSteps"),
        "noise_reused": reused or len(set(seeds)) < len(seeds),
        "calibrated_with": run.choice("calibratedWith", Accounting, Accounting.UNSTATED),
    }


def _require_first_seed(run: Fields, seeds: list[str]) -> None:
    if not seeds:
        remedy = "A restart's seed needs the first start's beside it; digests of both will do."
        raise InvalidValue(run.name("seeds"), "must list the first start's seed", "none", remedy)


def _seed(field: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidValue(field, "must be a whole number or a text", type(value).__name__)
    return str(value)


def _fits(fields: Fields, units: int | None, batch: int | None) -> None:
    if units is not None and batch is not None and batch > units:
        rule = f"must be at most datasetSize ({units})"
        raise InvalidValue(fields.name("batchSize"), rule, batch)


def _flower_local(run: Fields, name: str) -> RunRecord:
    run.text("mod", "LocalDpMod")
    clip, sensitivity = _positive(run, "clippingNorm"), run.decimal("sensitivity")
    epsilon, delta = _positive(run, "epsilon"), _delta(run)
    # The formula of LocalDpMod itself, whatever it is worth.
    formula = float(sensitivity) * math.sqrt(2 * math.log(1.25 / float(delta))) / float(epsilon)
    logged = run.decimal_or_none("sigma")
    sigma, mismatches = Decimal(formula), ()  # type: tuple[Decimal, tuple[str, ...]]
    if logged is not None:
        if abs(float(logged) - formula) > _SIGMA_TOLERANCE * formula:
            mismatches = (f"logged sigma {logged}, but LocalDpMod adds {formula:.6g}",)
        sigma = logged
    claim = Fields(run.raw("claim") or {}, run.name("claim"))
    unit = run.choice("unit", Unit, Unit.CLIENT)
    record = RunRecord(
        name=run.text("name", name),
        source=RecordFormat.FLOWER_LOCAL,
        claim=Claim(
            epsilon=epsilon,
            delta=delta,
            unit=claim.choice("unit", Unit, unit),
            neighbors=claim.choice("neighbors", Neighbors, Neighbors.ADD_OR_REMOVE_ONE),
            scope=claim.choice("scope", Scope, Scope.TOTAL),
            accounting=Accounting.CLASSIC,
        ),
        phases=(Phase(sigma / clip, Decimal(1), run.whole("rounds")),),
        unit=unit,
        sampling=Sampling.FULL,
        assumed_sampling=Sampling.FULL,
        clip=clip,
        sensitivity=sensitivity,
        units=run.whole_or_none("clients"),
        mismatches=mismatches,
        **_conduct(run),
    )
    claim.finish()
    run.text("comment", "")
    run.finish()
    return record


def _flower_server(run: Fields, name: str) -> RunRecord:
    noise, clip = run.decimal("noiseMultiplier"), _positive(run, "clippingNorm")
    sampled, clients = run.whole("numSampledClients"), run.whole_or_none("numClients")
    if clients is not None and sampled > clients:
        rule = f"must be at most numClients ({clients})"
        raise InvalidValue(run.name("numSampledClients"), rule, sampled)
    assumed = _ASSUMED[run.choice("samplingMethod", _FlowerSampling, _FlowerSampling.NONE)]
    rate = Decimal(1)
    if assumed is not Sampling.FULL:
        known = whole(run.name("numClients"), run.required("numClients", "A rate needs it."))
        rate = _RATES.divide(Decimal(sampled), Decimal(known))
    noise, mismatches = _noise_per_reply(run, noise, sampled)
    unit = run.choice("unit", Unit, Unit.CLIENT)
    record = RunRecord(
        name=run.text("name", name),
        source=RecordFormat.FLOWER_SERVER,
        claim=_claim(run, unit=unit, neighbors=Neighbors.ADD_OR_REMOVE_ONE),
        phases=(Phase(noise, rate, run.whole("rounds")),),
        unit=unit,
        # The wrappers insist on a fixed number of clients, so Poisson was never used.
        sampling=Sampling.FULL if assumed is Sampling.FULL else Sampling.FIXED_SIZE,
        assumed_sampling=assumed,
        clip=clip,
        units=clients,
        batch_size=None if assumed is Sampling.FULL else sampled,
        # Required: FedAvg weighs by examples unless told otherwise.
        weighting=run.choice("weighting", Weighting),
        mismatches=mismatches,
        **_conduct(run),
    )
    run.text("comment", "")
    run.finish()
    return record


def _noise_per_reply(run: Fields, noise: Decimal, sampled: int) -> tuple[Decimal, tuple[str, ...]]:
    """The wrappers scale the noise for all sampled clients; fewer replies weigh more each."""
    fewest = run.whole_or_none("fewestReplies")
    if fewest is None or fewest >= sampled:
        return noise, ()
    scaled = f"noise was scaled for {sampled} clients, a round averaged {fewest}"
    return noise * fewest / sampled, (scaled,)


def _plain(run: Fields, name: str) -> RunRecord:
    run.text("format", "")
    mechanism = run.choice("mechanism", Mechanism)
    noise, clip = run.decimal("noiseStandardDeviation"), _positive(run, "clip")
    if mechanism is Mechanism.LAPLACE:
        noise = noise / Decimal(2).sqrt()  # Standard deviation is sqrt(2) times the scale.
    sampling = run.choice("sampling", Sampling)
    units, batch = run.whole_or_none("datasetSize"), run.whole_or_none("batchSize")
    _fits(run, units, batch)
    assumed = Sampling.FULL if sampling is Sampling.FULL else Sampling.POISSON
    claim, rate = _claim(run), _rate(run, sampling, units, batch)
    relative, individual = noise / clip, None
    if "individualBudgets" in run:
        _require_individual(run, claim, mechanism, sampling)
        individual = individual_budgets(run.child("individualBudgets"), noise, clip, rate)
        relative = min(group.noise_multiplier for group in individual.groups)
        rate = max(group.sample_rate for group in individual.groups)
    record = RunRecord(
        name=run.text("name", name),
        source=RecordFormat.PLAIN,
        claim=claim,
        phases=(Phase(relative, rate, run.whole("steps"), mechanism),),
        unit=run.choice("unit", Unit),
        sampling=sampling,
        assumed_sampling=run.choice("assumedSampling", Sampling, assumed),
        clip=clip,
        sensitivity=run.decimal_or_none("sensitivity"),
        units=units,
        batch_size=batch,
        weighting=run.choice("weighting", Weighting, Weighting.EQUAL),
        individual=individual,
        **_conduct(run),
    )
    run.text("comment", "")
    run.finish()
    return record


def _require_individual(
    run: Fields, claim: Claim, mechanism: Mechanism, sampling: Sampling
) -> None:
    """Budgets of groups are rechecked for what their theory is about, and refused elsewhere."""
    plain = run.whole_or_none("microbatch") in (None, 1)
    poisson = mechanism is Mechanism.GAUSSIAN and sampling is Sampling.POISSON
    if not (plain and poisson and claim.neighbors is Neighbors.ADD_OR_REMOVE_ONE):
        rule = "must be absent unless single units were sampled by Poisson under AddOrRemoveOne"
        found = f"{mechanism.value}, {sampling.value}, {claim.neighbors.value}"
        raise InvalidValue(run.name("individualBudgets"), rule, found)


def _rate(run: Fields, sampling: Sampling, units: int | None, batch: int | None) -> Decimal:
    if sampling is Sampling.FULL and "sampleRate" not in run:
        return Decimal(1)
    if "sampleRate" not in run and units is not None and batch is not None:
        return _RATES.divide(Decimal(batch), Decimal(units))
    return _positive(run, "sampleRate", most=Decimal(1))

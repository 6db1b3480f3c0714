"""The self-test of a noisy table of units: one Gaussian release, seen from outside (methods, 6.4).

The Study's own function is run on toy units whose clipped vectors are known. Under hardly any noise
every row can be read: lengths, labels, places, rows without a unit. Under the Study's noise the
noise itself is looked at, and the trade-off curve of a unit that is there or not. Catches a wrong
noise scale, noise on part of the table, reused or shared noise, missing clipping, labels outside of
the clip, places that are not random, and rows that are left out. Accepted false-alarm rate of one
whole self-test: ``FALSE_ALARM_RATE``. Sees no patient data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from scipy import special, stats

from primum.domain.governance.evidence import Verdict
from primum_pipelines.audits.self_test import statistics
from primum_pipelines.audits.self_test.mechanism import FALSE_ALARM_RATE, SelfTestResult
from primum_pipelines.audits.self_test.statistics import Array, Check
from primum_pipelines.kinds.private_features.mechanism import TableMechanism

Release: TypeAlias = Callable[[Array, Array, TableMechanism], Array]
"""Maps features ``(n, d)``, label shares ``(n, K)`` and the mechanism to the table released."""

ROWS, UNITS, CLASSES = 64, 48, 4
STILL = 1022  # With the unused classes 1,024 columns of noise, a power of two.
LOUD_RUNS, QUIET_RUNS = 4, 16
QUIET = 1e-5  # Noise multiplier under which rows can be read; toy units only.
PAIRS = 8192  # Rows that all hold a unit, and as many that hold none.
FPRS = (0.3, 0.1, 0.01)  # Thresholds fixed beforehand, from the planned noise.
_USED = 2  # Classes that toy units have.
_HUGE = 1000.0  # Length of a toy unit's features in C: the clip is always active.
_NEAR = 1e-3  # Of C: far above what noise under QUIET reaches, far below any wrong clip.
_CHECKS_MAX = 16  # Hypotheses that share the false-alarm rate.
LEVEL = FALSE_ALARM_RATE / _CHECKS_MAX


@dataclass(frozen=True, slots=True)
class _Read:
    """What the quiet runs show.

    Args:
        tables: ``(runs, ROWS, columns)`` over C.
        places: Row of each unit, ``(runs, UNITS)``; -1 where it is nowhere or twice.
    """

    tables: Array
    places: np.ndarray


class _UnseenError(Exception):
    """The table does not have the public shape; whatever else holds, it cannot be read."""


def noisy_table_self_test(release: Release, mechanism: TableMechanism) -> SelfTestResult:
    """Whether a function releases the planned noisy table.

    Args:
        release: What the Study released its table with.
        mechanism: The Study's own, but for its number of rows, which is the toy's.

    Returns:
        The result. A release that raises is Inconclusive, which no gate takes for a pass; a table
        with more or fewer rows than it must have is a Fail.
    """
    toy = replace(mechanism, rows=ROWS)
    quiet = replace(toy, noise_multiplier=QUIET)
    features, labels = _units()
    try:
        loud = _tables(release, features, labels, toy, runs=LOUD_RUNS)
        read = _read(_tables(release, features, labels, quiet, runs=QUIET_RUNS))
        checks = [
            *_noise_checks(loud[:, :, UNITS:], toy),
            *_clip_checks(read, toy),
            *_place_checks(read),
            _curve_check(release, replace(mechanism, rows=PAIRS)),
        ]
    except _UnseenError:
        checks = [Check("RowsAsPublic", 0.0)]
    except Exception as problem:  # noqa: BLE001 - it may raise anything; none of it is a pass
        reason = f"the release raised {type(problem).__name__}"
        return SelfTestResult(Verdict.INCONCLUSIVE, (), (reason,), (), 0, 1, LOUD_RUNS)
    failed = tuple(check.name for check in checks if not check.p_value >= LEVEL)
    return SelfTestResult(
        verdict=Verdict.FAIL if failed else Verdict.PASS,
        failed=failed,
        unresolved=(),
        checks=tuple(checks),
        noise_draws=LOUD_RUNS * ROWS * (STILL + CLASSES - _USED),
        steps=1,
        runs=LOUD_RUNS,
    )


def _units() -> tuple[Array, Array]:
    """Units that each push a column of their own far beyond the clip, in two of four classes."""
    features = np.zeros((UNITS, UNITS + STILL))
    features[np.arange(UNITS), np.arange(UNITS)] = _HUGE
    return features, np.eye(CLASSES)[np.arange(UNITS) % _USED]


def _tables(
    release: Release, features: Array, labels: Array, mechanism: TableMechanism, *, runs: int
) -> Array:
    """Tables of independent runs, over C; units' features are scaled to the clip first."""
    found = [
        np.asarray(release(features * mechanism.clip, labels, mechanism), dtype=np.float64)
        for _ in range(runs)
    ]
    if any(table.shape != (mechanism.rows, UNITS + STILL + CLASSES) for table in found):
        raise _UnseenError
    return np.stack(found) / mechanism.clip


def _noise_checks(seen: Array, mechanism: TableMechanism) -> list[Check]:
    """Columns that no unit pushes, and those of classes that no unit has."""
    still = np.concatenate([seen[:, :, :STILL], seen[:, :, STILL + _USED :]], axis=2)
    noise = still.reshape(LOUD_RUNS * ROWS, -1) / mechanism.noise_multiplier
    return [
        Check("NoiseScale", statistics.noise_scale(noise)),
        Check("NoiseOnEveryColumn", statistics.noise_everywhere(noise)),
        Check("NoiseOnEveryRow", statistics.noise_every_step(noise)),
        Check("NoiseIndependentOverColumns", statistics.noise_independent(noise)),
        Check("NoiseFreshOverRowsAndRuns", statistics.fresh(noise)),
    ]


def _read(tables: Array) -> _Read:
    there = np.abs(tables[:, :, :UNITS]) > _NEAR  # (runs, rows, units)
    places = np.where(there.sum(axis=1) == 1, there.argmax(axis=1), -1)
    return _Read(tables, places)


def _clip_checks(read: _Read, mechanism: TableMechanism) -> list[Check]:
    """Under hardly any noise a unit's row is its clipped vector, and other rows hold nothing.

    Decided with certainty but for noise beyond ``_NEAR``, so that a p-value of 0 or 1 says it.
    """
    runs = np.arange(QUIET_RUNS)[:, None]
    rows = read.tables[runs, read.places]  # (runs, units, columns)
    share = mechanism.label_share
    expected = np.zeros_like(rows)
    units = np.arange(UNITS)
    expected[:, units, units] = math.sqrt(1 - share)
    expected[:, units, UNITS + STILL + units % _USED] = math.sqrt(share)
    lengths = np.linalg.norm(rows, axis=2)
    held = np.linalg.norm(read.tables, axis=2) > _NEAR
    filled = held.sum(axis=1)
    everywhere = bool((read.places >= 0).all())
    return [
        _certain("LengthWithinClip", bool((lengths <= 1 + _NEAR).all())),
        _certain("FeaturesAndLabelAsPlanned", bool((np.abs(rows - expected) < _NEAR).all())),
        _certain("OneRowPerUnit", everywhere and bool((filled == UNITS).all())),
    ]


def _certain(name: str, holds: bool) -> Check:  # noqa: FBT001 - what was decided
    return Check(name, 1.0 if holds else 0.0)


def _place_checks(read: _Read) -> list[Check]:
    """Whether places are a fresh uniform injection in every run.

    Units that stand where they stood, in another run or in the order of the data, are counted:
    P[X >= k] <= E[C(X, k)] = C(n, k) / (N (N - 1) ... (N - k + 1)), which is exact in its direction
    (first factorial moments). Rows that hold no unit overlap between runs as a hypergeometric
    number does. Order is Spearman's correlation, and the mean place that of a sample without
    replacement, both taken as normal, whose tails are heavier than theirs.
    """
    places = read.places
    if (places < 0).any():
        return [_certain("PlacesFresh", holds=False)]
    first, second = np.triu_indices(QUIET_RUNS, k=1)
    again = (places[first] == places[second]).sum(axis=1)
    in_order = (places == np.arange(UNITS)).sum(axis=1)
    empty = np.ones((QUIET_RUNS, ROWS), dtype=bool)
    np.put_along_axis(empty, places, values=False, axis=1)
    shared = (empty[first] & empty[second]).sum(axis=1)
    left = ROWS - UNITS
    overlap = stats.hypergeom.sf(shared - 1, ROWS, left, left)
    ranks = places.argsort(axis=1).argsort(axis=1) - (UNITS - 1) / 2
    order = ranks @ (np.arange(UNITS) - (UNITS - 1) / 2) / (UNITS * (UNITS**2 - 1) / 12)
    spread = math.sqrt((ROWS + 1) * (ROWS - UNITS) / (12 * UNITS))
    off = (places.mean(axis=1) - (ROWS - 1) / 2) / spread
    return [
        Check("PlacesFresh", statistics.least_of(_coincidence(again))),
        Check("PlacesNotThoseOfTheData", statistics.least_of(_coincidence(in_order))),
        Check("EmptyRowsFresh", statistics.least_of(np.asarray(overlap, dtype=np.float64))),
        Check("PlacesInNoOrder", statistics.least_of(_two_sided(order * math.sqrt(UNITS - 1)))),
        Check("PlacesEvenlySpread", statistics.least_of(_two_sided(off))),
    ]


def _coincidence(counts: np.ndarray) -> Array:
    """At most the chance that so many units or more have the places they had."""
    logs = (
        special.gammaln(UNITS + 1)
        - special.gammaln(counts + 1)
        - special.gammaln(UNITS - counts + 1)
        + special.gammaln(ROWS - counts + 1)
        - special.gammaln(ROWS + 1)
    )
    bounds: Array = np.minimum(1.0, np.exp(logs))
    return bounds


def _two_sided(scores: Array) -> Array:
    found: Array = 2 * stats.norm.sf(np.abs(scores))
    return found


def _curve_check(release: Release, mechanism: TableMechanism) -> Check:
    """The observed trade-off curve of one unit that is there or not, under the Study's own noise.

    In one table every row holds the same unit, in the other none does: each row is one trial of
    the two neighbors. The projection on the unit is the best statistic there is.
    """
    features, labels = np.zeros((PAIRS, 1)), np.zeros((PAIRS, _USED))
    features[:, 0], labels[:, 0] = _HUGE * mechanism.clip, 1.0
    told = np.array([math.sqrt(1 - mechanism.label_share), math.sqrt(mechanism.label_share), 0.0])
    present = np.asarray(release(features, labels, mechanism)) @ told / mechanism.clip
    absent = np.asarray(release(features[:0], labels[:0], mechanism)) @ told / mechanism.clip
    if len(present) != PAIRS or len(absent) != PAIRS:
        raise _UnseenError
    noise = mechanism.noise_multiplier

    def bound(fpr: float) -> float:
        return float(stats.norm.cdf(stats.norm.ppf(fpr) + 1 / noise))

    over = any(
        statistics.above_curve(
            present,
            absent,
            threshold=noise * float(stats.norm.isf(fpr)),
            bound_at=bound,
            level=LEVEL / len(FPRS),
        )
        for fpr in FPRS
    )
    return _certain("TradeOffOfOneUnit", not over)

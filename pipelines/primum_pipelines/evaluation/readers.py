"""How far a model and the people who read the same cases agree, beyond chance (Cohen 1960).

Intervals are by unit. What one reader says is about a person at work: these figures are for the
zone, whatever a budget discloses.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from primum.domain.canonical import JSON
from primum_pipelines.evaluation.figures import Floats, Ints, Scored, bootstrapped
from primum_pipelines.evaluation.subgroups import GROUP_MIN, people

_MASKED: Mapping[str, JSON] = {"masked": f"fewer than {GROUP_MIN}"}


def agreement(scored: Scored, readers: Mapping[str, Ints]) -> dict[str, JSON]:
    """Cohen's kappa between a model and each reader, and between readers.

    Args:
        scored: Rows as the model sees them.
        readers: Class number that each reader gave ``(n,)``, -1 where none was given.

    Returns:
        ``model``: per reader ``rows`` and ``kappa`` on the rows that the reader read; ``between``:
        the same for each pair, on the rows that both read. What fewer than 30 units have is
        masked. Kappa is NaN where both always say one class.
    """
    said = scored.predictions
    found = {name: _kappa(scored, said, own) for name, own in readers.items()}
    pairs = itertools.combinations(readers, 2)
    between = {f"{a}/{b}": _kappa(scored, readers[a], readers[b]) for a, b in pairs}
    return {"model": dict(found), "between": dict(between)}


def _kappa(scored: Scored, first: Ints, second: Ints) -> JSON:
    both = (first >= 0) & (second >= 0)
    rows = int(both.sum())
    if people(scored.units, both) < GROUP_MIN:
        return dict(_MASKED)
    classes = scored.probabilities.shape[1]
    cell = np.eye(classes * classes)[first[both] * classes + second[both]]

    def of(_: Scored, weights: Floats) -> Mapping[str, Floats]:
        table = (weights @ cell).reshape(-1, classes, classes)
        total = table.sum(axis=(1, 2))
        observed = np.trace(table, axis1=1, axis2=2) / total
        chance = (table.sum(axis=2) * table.sum(axis=1)).sum(axis=1) / total**2
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"kappa": (observed - chance) / (1 - chance)}

    return {"rows": rows, "kappa": bootstrapped(scored.where(both), of)["kappa"].to_json()}

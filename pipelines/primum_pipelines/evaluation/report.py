"""Studies side by side: what tells their models apart, what epsilon does, and a picture of it.

The door through which the platform compares; it is given figures and references, and reads
predictions only where it is given those, which the platform gives to roles inside the zone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from primum.domain.canonical import JSON, decimal_text
from primum_pipelines import artifacts
from primum_pipelines.evaluation import comparing, plots, predictions, readers
from primum_pipelines.evaluation.figures import Figure, Floats, Ints
from primum_pipelines.evaluation.plots import Curve, PictureFormat
from primum_pipelines.evaluation.predictions import Predictions

_TREND_MIN = 3  # Epsilons, for a correlation that says anything.


def tests(references: Mapping[str, Mapping[str, JSON]], *, against: str) -> list[JSON]:
    """Tests of every Study's model against one of them, on the units that both were asked about.

    Args:
        references: ``uri`` and ``digest`` of each Study's predictions, by Study.
        against: The Study that the others are compared with.

    Returns:
        Per other Study: ``rows``, McNemar's counts and p-value, Cohen's kappa with interval, with
        each reader the kappa of this and of the other model, and the difference in ROC-AUC with
        interval and p-value. P-values are adjusted for the number
        of Studies (Holm). Several rows of a unit are averaged first: tests need independent rows.

    Raises:
        NotFound: If predictions are gone.
        Tampered: If they are not those that the Study recorded.
        InvalidValue: If they cannot be read.
    """
    read = {name: _read(reference) for name, reference in references.items()}
    others = [name for name in read if name != against]
    found = {name: _tested(read[against], read[name]) for name in others}
    for test in ("mcnemar", "rocAuc"):
        raw = {name: _p_value(item, test) for name, item in found.items()}
        for name, adjusted in comparing.holm(raw).items():
            part = found[name].get(test)
            if isinstance(part, dict):
                part["adjustedP"] = decimal_text(adjusted)
    return [{"study": name, "against": against, **found[name]} for name in others]


def trend(points: Sequence[tuple[float, float]]) -> JSON:
    """Pearson's r between log epsilon and a figure over a sweep; ``None`` for fewer than three.

    Args:
        points: ``(epsilon, figure)`` of each Study; an infinite epsilon does not count.
    """
    known = [(e, y) for e, y in points if math.isfinite(e) and e > 0 and math.isfinite(y)]
    if len({e for e, _ in known}) < _TREND_MIN:
        return None
    return comparing.pearson([math.log(e) for e, _ in known], [y for _, y in known]).to_json()


def picture(series: Mapping[str, Sequence[Mapping[str, JSON]]], *, figure: str, form: str) -> bytes:
    """A figure with intervals over epsilon; a Study without a claim is the level beside the curve.

    Args:
        series: By curve (a model): ``epsilon``, ``estimate``, ``lower``, ``upper`` of each Study.
        figure: What is shown, for the axis.
        form: ``svg`` or ``png``.
    """
    curves, level = [], None
    for name, entries in series.items():
        known = [(float(str(entry["epsilon"])), _figure(entry)) for entry in entries]
        known.sort(key=lambda pair: (pair[0], pair[1].estimate))  # Several may claim the same.
        finite = [(e, value) for e, value in known if math.isfinite(e)]
        level = next((value for e, value in known if math.isinf(e)), level)
        if finite:
            curves.append(Curve(name, [e for e, _ in finite], [value for _, value in finite]))
    return plots.with_intervals(
        curves,
        x_label="epsilon",
        y_label=figure,
        level=level,
        level_name="without privacy",
        picture=PictureFormat(form),
    )


def _figure(entry: Mapping[str, JSON]) -> Figure:
    return Figure(*(float(str(entry[name])) for name in ("estimate", "lower", "upper")))


def _read(reference: Mapping[str, JSON]) -> Predictions:
    data = artifacts.fetch(str(reference["uri"]), digest=str(reference["digest"]))
    return predictions.from_bytes(data)


def _p_value(found: Mapping[str, JSON], test: str) -> float:
    part = found.get(test)
    return float(str(part["p"])) if isinstance(part, Mapping) else math.nan


def _tested(first: Predictions, second: Predictions) -> dict[str, JSON]:
    left, right = predictions.aligned(first, second)
    classes = first.probabilities.shape[1]
    if not len(left) or classes != second.probabilities.shape[1]:
        return {"rows": 0}
    labels, answers = _by_unit(first, left, [(first, left), (second, right)])
    said = [part.argmax(axis=1) for part in answers]
    tested = comparing.mcnemar(said[1] == labels, said[0] == labels)
    kappa = comparing.cohen_kappa(said[0], said[1], classes=classes)
    report: dict[str, JSON] = {
        "rows": len(labels),
        "readers": _with_readers(first, left, second, right),
        "mcnemar": {
            "onlyThisRight": tested.first_only,
            "onlyOtherRight": tested.second_only,
            "p": decimal_text(tested.p_value),
        },
        "kappa": kappa.to_json(),
    }
    if classes == 2:  # noqa: PLR2004 - an area is of one score
        k = first.positive
        area = comparing.delong(labels == k, answers[1][:, k], answers[0][:, k])
        report["rocAuc"] = {
            "difference": area.difference.to_json(),
            "p": decimal_text(area.p_value),
        }
    return report


def _with_readers(first: Predictions, left: Ints, second: Predictions, right: Ints) -> JSON:
    """Kappa with each reader on the rows that both models answered, row by row."""
    if not first.readers:
        return {}
    said = {name: numbers[left] for name, numbers in first.readers.items()}
    ours = readers.agreement(second.scored(right), said)
    theirs = readers.agreement(first.scored(left), said)
    return {
        name: {"this": _part(ours, name), "other": _part(theirs, name)} for name in first.readers
    }


def _part(agreed: Mapping[str, JSON], name: str) -> JSON:
    with_model = agreed["model"]
    return with_model[name] if isinstance(with_model, Mapping) else None


def _by_unit(
    first: Predictions, rows: Ints, parts: Sequence[tuple[Predictions, Ints]]
) -> tuple[Ints, list[Floats]]:
    """Labels and mean probabilities per unit; rows of a unit with another label stay apart."""
    key = first.owners[rows] * (int(first.labels.max()) + 1) + first.labels[rows]
    _, start, group = np.unique(key, return_index=True, return_inverse=True)
    size = np.bincount(group)
    means = []
    for part, chosen in parts:
        total = np.zeros((len(start), part.probabilities.shape[1]))
        np.add.at(total, group, part.probabilities[chosen])
        means.append(total / size[:, None])
    return first.labels[rows][start], means


def gaps(fairness: Sequence[tuple[float, Mapping[str, JSON]]], *, figure: str) -> dict[str, JSON]:
    """What DP does to subgroups: per attribute and group, the figure over epsilon and its trend.

    Args:
        fairness: ``(epsilon, report)`` of each Study, as ``subgroups.fairness`` gives it.
        figure: A difference, such as ``rocAucDifference``.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for epsilon, report in fairness:
        for attribute, groups in report.items():
            for group, entry in groups.items() if isinstance(groups, Mapping) else ():
                value = entry.get(figure) if isinstance(entry, Mapping) else None
                if isinstance(value, Mapping):
                    estimate = float(str(value["estimate"]))
                    points.setdefault(f"{attribute}/{group}", []).append((epsilon, estimate))
    return {
        name: {
            "points": [
                {"epsilon": decimal_text(e), figure: decimal_text(y)} for e, y in sorted(known)
            ],
            "trend": trend(known),
        }
        for name, known in points.items()
    }

"""What scores of members and non-members come to: the figures that every membership audit reports.

TPR at the FPRs that the sample sizes resolve with Clopper-Pearson intervals, AUC, balanced accuracy
and PPV at a threshold that was fixed without the scores, the subgroup whose members are found best,
and the ROC curve beside what the mechanism allows (methods, section 5.1). Judges nothing; all of it
is Restricted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON, decimal_text
from primum.domain.risk.intervals import clopper_pearson_one_sided
from primum_pipelines.audits.audit import CONFIDENCE
from primum_pipelines.audits.low_tail import tpr_bounds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from primum_pipelines.attacks.figures import Array
    from primum_pipelines.audits.subject import PlannedMechanism

FPRS = (0.1, 0.01, 0.001)
PRIORS = (0.5, 0.1, 0.01)
ROC = "roc.svg"
_GROUP_MIN = 30  # On either side: below, a subgroup's figure says nothing and may name people.


def measured(present: Array, absent: Array, *, threshold: float) -> dict[str, JSON]:
    """The figures of one attack.

    Args:
        present: Scores of members, ``(n_members,)``.
        absent: Scores of non-members, ``(n_non_members,)``.
        threshold: Fixed without them; above it a record is called a member.
    """
    members, others = len(present), len(absent)
    hits, alarms = int((present > threshold).sum()), int((absent > threshold).sum())
    tpr, fpr = hits / members, alarms / others
    return {
        "members": members,
        "nonMembers": others,
        "smallestResolvableFpr": decimal_text(1 / others),
        "auc": area_of(present, absent),
        "balancedAccuracy": decimal_text((tpr + 1 - fpr) / 2),
        "tprAt": tpr_at(present, absent),
        "ppvAt": {
            decimal_text(prior): decimal_text(
                prior * tpr / (prior * tpr + (1 - prior) * fpr) if hits or alarms else 0.0
            )
            for prior in PRIORS
        },
    }


def area_of(present: Array, absent: Array) -> dict[str, JSON]:
    """An AUC with its 95 % interval (Hanley & McNeil 1982), as decimal strings."""
    from primum_pipelines.attacks import figures

    area = figures.auc(present, absent)
    half_width = 1.96 * _auc_error(area, len(present), len(absent))
    return {
        "estimate": decimal_text(area),
        "lower": decimal_text(max(0.0, area - half_width)),
        "upper": decimal_text(min(1.0, area + half_width)),
    }


def tpr_at(present: Array, absent: Array) -> dict[str, JSON]:
    """TPR at FPR 10 %, 1 %, 0.1 % and the smallest that the non-members resolve."""
    return {decimal_text(rate): _tpr_at(present, absent, rate) for rate in (*FPRS, 1 / len(absent))}


def worst_subgroup(
    present: Array,
    absent: Array,
    groups: Mapping[str, tuple[NDArray[np.str_], NDArray[np.str_]]],
) -> dict[str, JSON]:
    """The subgroup whose members are found best, of those with 30 records on either side.

    Args:
        present: Scores of members.
        absent: Scores of non-members.
        groups: Group of each member and of each non-member, by subgroup attribute.
    """
    found: list[tuple[float, dict[str, JSON]]] = []
    for attribute, (inside, outside) in groups.items():
        for group in sorted({str(value) for value in inside}):
            own, rest = present[inside == group], absent[outside == group]
            if min(len(own), len(rest)) >= _GROUP_MIN:
                area = area_of(own, rest)
                entry: dict[str, JSON] = {"attribute": attribute, "group": group, "auc": area}
                found.append((float(str(area["estimate"])), entry))
    if not found:
        return {"masked": f"no subgroup has {_GROUP_MIN} records on either side"}
    return max(found, key=lambda item: item[0])[1] | {"compared": len(found)}


def roc_picture(name: str, present: Array, absent: Array, mechanism: PlannedMechanism) -> bytes:
    """The ROC curve on logarithmic axes, beside what the mechanism allows."""
    import numpy as np

    from primum_pipelines.attacks import figures
    from primum_pipelines.evaluation import plots

    def bound(rates: np.ndarray) -> np.ndarray:
        return np.array(tpr_bounds(mechanism, fprs=[float(rate) for rate in rates]))

    return plots.roc_curves(
        {name: figures.roc(present, absent)}, smallest=1 / len(absent), bound=bound
    )


def _tpr_at(present: Array, absent: Array, fpr: float) -> dict[str, JSON]:
    """TPR at an FPR with its 95 % interval, if the non-members resolve that FPR."""
    from primum_pipelines.attacks import figures

    if fpr * len(absent) < 1 - 1e-9:
        return {"resolvable": "no"}
    hits = int((present > figures.threshold_at(absent, fpr)).sum())
    limits = clopper_pearson_one_sided(
        successes=hits, trials=len(present), tail_probability=float(1 - CONFIDENCE) / 2
    )
    return {
        "resolvable": "yes",
        "estimate": decimal_text(hits / len(present)),
        "lower": decimal_text(limits["lower"]),
        "upper": decimal_text(limits["upper"]),
    }


def _auc_error(area: float, members: int, others: int) -> float:
    """Standard error of an AUC (Hanley & McNeil 1982)."""
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (members - 1) * (one - area**2) + (others - 1) * (two - area**2)
    return math.sqrt(max(0.0, spread) / (members * others))

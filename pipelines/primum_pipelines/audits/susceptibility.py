"""The steward's view of who is at risk: gradient norms of patients, and what drives them.

Describes and proves nothing, so it is Inconclusive by design: for an AuditRun, not for a release.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON, decimal_text
from primum.domain.governance.evidence import EvidenceKind, Verdict
from primum_pipelines.audits.audit import Finding, ThreatModel
from primum_pipelines.audits.parameters import CLASSIFIERS, whole
from primum_pipelines.audits.subject import AuditSubject

if TYPE_CHECKING:
    from primum_pipelines.attacks.susceptibility import Susceptibility
    from primum_pipelines.models.artifact import ModelSpec

THREAT = ThreatModel(
    access="Weights",
    architecture="GrayBox",
    server="HonestButCurious",
    data="AllButOne",
    sampling="Iid",
)
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_POOL_DEFAULT = 2000
_NAMED_MAX = 20


class PrivacySusceptibility:
    """Gradient norms per unit, and which inputs they hang on (PLIS; Mueller et al. 2022)."""

    name = "PrivacySusceptibility"
    attacks = CLASSIFIERS
    reads = frozenset({"pool"})
    kind = EvidenceKind.RECONSTRUCTION
    reviewed = True
    opens_data = True

    def run(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Finding:
        """Differentiate every training unit's gradient norm by its input.

        Args:
            subject: The trained model and its plan.
            parameters: ``pool``, units at most, default 2000.

        Returns:
            Inconclusive, with figures for the steward alone.

        Raises:
            InvalidValue: If a parameter breaks its rule.
        """
        import torch

        from primum_pipelines.attacks.pool import training_pool
        from primum_pipelines.attacks.susceptibility import susceptibility

        most = whole(parameters, "pool", default=_POOL_DEFAULT, low=20, high=100_000)
        model = subject.model()
        pool = training_pool(subject.table(), model.spec)
        pool = pool.only(torch.randperm(len(pool.labels))[:most])
        found = susceptibility(model.module, pool.inputs, pool.labels)
        return Finding(
            kind=self.kind,
            name=self.name,
            verdict=Verdict.INCONCLUSIVE,
            public={"threatModel": THREAT.to_json(), "units": len(pool.labels)},
            restricted=_restricted(found, model.spec, clip=subject.released_by().max_grad_norm),
            reasons=("it describes who is at risk and proves nothing",),
            pictures={"susceptibility.png": _picture(found, model.spec)},
        )


def _restricted(found: Susceptibility, spec: ModelSpec, *, clip: float) -> dict[str, JSON]:
    import numpy as np

    quantiles = np.quantile(found.norms, _SHARES)
    drive = np.abs(found.inputs).mean(axis=0)
    report: dict[str, JSON] = {
        "clipped": decimal_text(float((found.norms > clip).mean())),
        "gradientNorm": {
            decimal_text(share): decimal_text(float(value))
            for share, value in zip(_SHARES, quantiles, strict=True)
        },
    }
    if spec.feature_names:
        order = np.argsort(-drive)[:_NAMED_MAX]
        report["columns"] = [
            {"name": spec.feature_names[at], "plis": decimal_text(float(drive[at]))} for at in order
        ]
    return report


def _picture(found: Susceptibility, spec: ModelSpec) -> bytes:
    import numpy as np

    from primum_pipelines.evaluation import plots

    drive = np.abs(found.inputs).mean(axis=0)
    return plots.susceptibility_view(found.norms, drive, names=spec.feature_names)

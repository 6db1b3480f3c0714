"""Audits of samples and generators: who was in the data, and who was copied (methods, section 8).

They see the samples, two of them the generator too, and compare with held-out records that it never
saw; of a table of noisy features, records are compared in the space of those features. Distances to
training records never gate on their own: sets that pass them can be open to membership attacks
(Yao et al. 2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue
from primum.domain.governance.evidence import EvidenceKind, Verdict
from primum.domain.risk.intervals import clopper_pearson_one_sided
from primum_pipelines.audits.audit import (
    FAIL_CONFIDENCE,
    Finding,
    ThreatModel,
)
from primum_pipelines.audits.membership import MEMBERS_MIN, judged, planned
from primum_pipelines.audits.membership_figures import ROC, measured, roc_picture, worst_subgroup
from primum_pipelines.audits.parameters import GENERATORS, TABLES, whole
from primum_pipelines.audits.subject import AuditSubject
from primum_pipelines.kinds.private_features.planned import EXTRACTOR, makes_table

if TYPE_CHECKING:
    import numpy as np

    from primum_pipelines.attacks.figures import Array
    from primum_pipelines.datasets.table import UnitTable

THREAT = ThreatModel(
    access="SamplesOnly",
    architecture="BlackBox",
    server="HonestButCurious",
    data="Population",
    sampling="Iid",
)
WHITE_BOX = replace(THREAT, access="Weights", architecture="GrayBox")
METHOD = "two-sided test at the 95 % quantile of held-out records set aside for it"
_ALARMS = 0.05  # Of the records that the threshold is calibrated on.
_THIRDS = 3
_MEMBERS_DEFAULT = 2000
_REBUILT_DEFAULT = 500  # Each is rebuilt by an optimization of its own.
_EMBEDDED = "DPMERF"
_SEED = 20250  # Of the records that are compared; it protects nobody.


@dataclass(frozen=True, slots=True, repr=False)
class Rows:
    """Records or samples in [0, 1], ``(n, ...)``, with their classes and subgroups ``(n,)``."""

    values: np.ndarray
    labels: np.ndarray
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, repr=False)
class Sides:
    """Released samples, members, and three disjoint parts of what the generator never saw."""

    samples: Rows
    members: Rows
    reference: Rows
    calibration: Rows
    others: Rows


class SampleAudit:
    """A membership audit of released samples. Subclasses say which score."""

    name: ClassVar[str]
    kind = EvidenceKind.MEMBERSHIP
    reviewed = True
    opens_data = True
    threat: ClassVar[ThreatModel] = THREAT
    pool_default: ClassVar[int] = _MEMBERS_DEFAULT
    attacks: ClassVar[frozenset[str]] = GENERATORS
    reads: ClassVar[frozenset[str]] = frozenset({"pool"})

    def scores(
        self, rows: Rows, sides: Sides, subject: AuditSubject, parameters: Mapping[str, JSON]
    ) -> Array:
        """Scores of records; higher means member."""
        raise NotImplementedError

    def run(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Finding:
        """Attack the samples that a Study released, or the table of its units' noisy features.

        Args:
            subject: The samples and the plan that they were made by.
            parameters: ``pool``, members at most, and the attack's own.

        Returns:
            The finding. The threshold is a quantile of held-out records that are used for nothing
            else. The bound treats records as independent trials, which they are only nearly.

        Raises:
            InvalidValue: If a parameter breaks its rule or there are too few records.
            NotFound: If the Study released no samples.
        """
        import numpy as np

        most = whole(parameters, "pool", default=self.pool_default, low=20, high=100_000)
        sides = _sides(subject, most)
        present, absent, calibration = (
            [float(score) for score in self.scores(rows, sides, subject, parameters)]
            for rows in (sides.members, sides.others, sides.calibration)
        )
        threshold = _quantile(calibration)
        found = judged(subject, present=present, absent=absent, threshold=threshold)
        inside, outside = np.asarray(present), np.asarray(absent)
        groups = {
            name: (numbers, sides.others.groups[name])
            for name, numbers in sides.members.groups.items()
        }
        return Finding(
            kind=self.kind,
            name=self.name,
            verdict=found.verdict,
            public=planned(subject, self.threat, method=METHOD, judgment=found),
            restricted={
                **measured(inside, outside, threshold=threshold),
                "lowerBound": decimal_text(found.epsilon_lower),
                "samples": len(sides.samples.values),
                "worstSubgroup": worst_subgroup(inside, outside, groups),
            },
            reasons=found.reasons,
            pictures={ROC: roc_picture(self.name, inside, outside, subject.released_by())},
        )


class DOMIAS(SampleAudit):
    """Density of the samples over that of the population (van Breugel et al. 2023)."""

    name = "DOMIAS"
    attacks = GENERATORS | TABLES

    def scores(
        self,
        rows: Rows,
        sides: Sides,
        subject: AuditSubject,  # noqa: ARG002 - others ask the generator
        parameters: Mapping[str, JSON],  # noqa: ARG002
    ) -> Array:
        """See the base."""
        from primum_pipelines.attacks.synthetic import density_ratio

        return density_ratio(rows.values, sides.samples.values, sides.reference.values)


class SampleDistance(SampleAudit):
    """Distance to the nearest sample, calibrated by the population (Chen et al. 2020)."""

    name = "SampleDistance"
    attacks = GENERATORS | TABLES

    def scores(
        self,
        rows: Rows,
        sides: Sides,
        subject: AuditSubject,  # noqa: ARG002 - others ask the generator
        parameters: Mapping[str, JSON],  # noqa: ARG002
    ) -> Array:
        """See the base."""
        from primum_pipelines.attacks.synthetic import calibrated_distance

        return calibrated_distance(rows.values, sides.samples.values, sides.reference.values)


class GeneratorLoss(SampleAudit):
    """How well the generator itself can rebuild a record (Chen et al. 2020, white box).

    Parameters: ``pool`` (default 500), ``iterations`` on latent vectors (200) and ``restarts`` (2).
    """

    name = "GeneratorLoss"
    reads = frozenset({"pool", "iterations", "restarts"})
    threat = WHITE_BOX
    pool_default = _REBUILT_DEFAULT

    def scores(
        self, rows: Rows, sides: Sides, subject: AuditSubject, parameters: Mapping[str, JSON]
    ) -> Array:
        """See the base."""
        from primum_pipelines.attacks.generators import calibrated_loss, generated_distance
        from primum_pipelines.synthesis.generator import generator_from_bytes

        generator, _ = generator_from_bytes(subject.artifact_bytes("Generator"))
        found = generated_distance(
            generator,
            rows.values,
            rows.labels,
            steps=whole(parameters, "iterations", default=200, low=1, high=10_000),
            restarts=whole(parameters, "restarts", default=2, low=1, high=16),
        )
        return calibrated_loss(found, rows.values, sides.reference.values)


class MeanEmbedding(SampleAudit):
    """The likelihood ratio of a record under the released mean that DP-MERF learns from."""

    name = "MeanEmbedding"
    threat = WHITE_BOX

    def scores(
        self,
        rows: Rows,
        sides: Sides,
        subject: AuditSubject,
        parameters: Mapping[str, JSON],  # noqa: ARG002 - it has none
    ) -> Array:
        """See the base."""
        from primum_pipelines.attacks.generators import embedding_shift
        from primum_pipelines.synthesis.generator import generator_from_bytes
        from primum_pipelines.synthesis.merf import FourierFeatures

        generator, told = generator_from_bytes(subject.artifact_bytes("Generator"))
        if told.get("method") != _EMBEDDED or "featureSeed" not in told:
            rule = f"must be another one for generators that are not made by {_EMBEDDED}"
            raise InvalidValue("spec.audits.attack", rule, self.name)
        features = FourierFeatures.draw(
            features=int(told["features"]),
            dimension=rows.values[0].size,
            seed=int(told["featureSeed"]),
        )
        return embedding_shift(
            generator,
            features,
            (rows.values, rows.labels),
            (sides.reference.values, sides.reference.labels),
        )


class Copies:
    """Whether samples are copies of training records, beside records that nobody could copy."""

    name = "Copies"
    attacks = GENERATORS
    reads = frozenset({"pool"})
    kind = EvidenceKind.RECONSTRUCTION
    reviewed = True
    opens_data = True

    def run(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Finding:
        """Compare samples with training and held-out records.

        Args:
            subject: The samples and the plan that they were made by.
            parameters: ``pool``, training records at most, default 2000.

        Returns:
            Fail where copies of training records are provably more frequent than of records that
            the generator never saw; Inconclusive below 20 records on a side.

        Raises:
            InvalidValue: If there are fewer than two records on a side.
            NotFound: If the Study released no samples.
        """
        import numpy as np

        from primum_pipelines.attacks.synthetic import copying

        most = whole(parameters, "pool", default=_MEMBERS_DEFAULT, low=20, high=100_000)
        sides = _sides(subject, most)
        parts = (sides.reference, sides.calibration, sides.others)
        members, others = sides.members.values, np.concatenate([part.values for part in parts])
        found = copying(sides.samples.values, members, others, seed=_SEED)
        tail = float(1 - FAIL_CONFIDENCE) / 2
        limits = [
            clopper_pearson_one_sided(successes=count, trials=found.samples, tail_probability=tail)
            for count in (found.copies, found.control_copies)
        ]
        verdict, reasons = Verdict.PASS, tuple[str, ...]()
        if limits[0]["lower"] > limits[1]["upper"]:
            reason = "training records are copied more often than records that were never seen"
            verdict, reasons = Verdict.FAIL, (reason,)
        elif min(len(members), len(others), found.samples) < MEMBERS_MIN:
            verdict, reasons = Verdict.INCONCLUSIVE, ("there are too few records to compare",)
        return Finding(
            kind=self.kind,
            name=self.name,
            verdict=verdict,
            public={
                **subject.stated(THREAT),
                "confidence": str(FAIL_CONFIDENCE),
            },
            restricted={
                "samples": found.samples,
                "copies": found.copies,
                "controlCopies": found.control_copies,
                "nearerToTraining": decimal_text(found.nearer),
                "authentic": decimal_text(found.authentic),
            },
            reasons=reasons,
        )


def _sides(subject: AuditSubject, most: int) -> Sides:
    import numpy as np

    from primum_pipelines.attacks.pool import require_sides
    from primum_pipelines.synthesis import archive

    samples = subject.samples()
    table = _comparable(subject, samples)
    require_sides(table.units, table.train)
    values = archive.unit_interval(table)
    _, first = np.unique(table.units, return_index=True)
    one = np.zeros(len(table.units), dtype=bool)
    one[first] = True
    generator = np.random.Generator(np.random.PCG64(_SEED))
    members = np.flatnonzero(table.train & one)
    others = generator.permutation(np.flatnonzero(~table.train & one))
    if not len(members) or len(others) < _THIRDS:
        raise InvalidValue("audit data", "must have members and three non-members", "fewer")

    def rows(chosen: np.ndarray) -> Rows:
        groups = {name: table.named_groups(name)[chosen] for name in table.subgroups}
        return Rows(values[chosen], table.labels[chosen], groups)

    return Sides(
        Rows(archive.unit_interval(samples), samples.labels),
        rows(generator.permutation(members)[:most]),
        *(rows(part) for part in np.array_split(others, _THIRDS)),
    )


def _comparable(subject: AuditSubject, samples: UnitTable) -> UnitTable:
    """The private table in the form of what was released: of a noisy table, features of units."""
    if not makes_table(subject.plan):
        return subject.table()
    from primum_pipelines.kinds.private_features import features

    extractor = features.extractor_from_bytes(subject.artifact_bytes(EXTRACTOR))
    mechanism = features.planned_mechanism(subject.plan.mechanism)
    return features.in_released_form(extractor, subject.table(), mechanism, released=samples)


def _quantile(scores: list[float]) -> float:
    """The score that one in twenty of the calibration records exceed."""
    ordered = sorted(scores, reverse=True)
    return ordered[min(len(ordered) - 1, int(_ALARMS * len(ordered)))]

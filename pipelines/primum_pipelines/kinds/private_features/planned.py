"""What plan, step and audits of PrivateFeatures call things. Light: no torch."""

from __future__ import annotations

from primum.domain.study.plan import Plan

METHOD = "NoisyFeatures"
EXTRACTOR = "Extractor"  # Kind of the artifact that turns a record into the table's features.
FIGURES = ("rows", "clip", "labelShare", "noiseMultiplier")  # Of the mechanism, in a plan.


def makes_table(plan: Plan) -> bool:
    """Whether a plan's mechanism is the noisy table, and no sum of contributions."""
    return plan.mechanism.get("method") == METHOD

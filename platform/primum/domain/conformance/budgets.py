"""Individual budgets as a run record declares them: groups with shares, never a person.

It must not judge them; ``checks`` does.
"""

from __future__ import annotations

from decimal import Decimal

from primum.domain.conformance.fields import Fields
from primum.domain.errors import InvalidValue
from primum.domain.risk.collusion import Group, IndividualBudgets, Method


def individual_budgets(
    fields: Fields, noise: Decimal, clip: Decimal, sample_rate: Decimal
) -> IndividualBudgets:
    """The budgets of a plain record.

    Args:
        fields: ``{"method", "groups": [{"epsilon", "share", "sampleRate" | "clip"}]}``, optionally
            ``excessBound``.
        noise: Standard deviation of the noise on the sum.
        clip: The run's clipping bound; with Scale each group has its own.
        sample_rate: Mean rate over all members; with Sample each group has its own.

    Returns:
        The budgets.

    Raises:
        InvalidValue: If a field is missing, unknown or out of range.
    """
    method = fields.choice("method", Method)
    groups = []
    for index, item in enumerate(fields.items("groups")):
        group = Fields(item, f"{fields.name('groups')}[{index}]")
        rate, bound = sample_rate, clip
        if method is Method.SAMPLE:
            rate = group.decimal("sampleRate", high=Decimal(1))
        else:
            bound = group.decimal("clip")
        if bound == 0:
            raise InvalidValue(group.name("clip"), "must be above 0", "0")
        groups.append(
            Group(
                epsilon=group.decimal("epsilon"),
                share=group.decimal("share", high=Decimal(1)),
                sample_rate=rate,
                noise_multiplier=noise / bound,
            )
        )
        group.finish()
    found = IndividualBudgets(
        method=method,
        groups=tuple(groups),
        sample_rate=sample_rate,
        excess_bound=fields.decimal_or_none("excessBound"),
    )
    fields.finish()
    return found

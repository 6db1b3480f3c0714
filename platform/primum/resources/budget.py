"""PrivacyBudget: the guarantee promised to the units of one dataset. Declared by the steward."""

from __future__ import annotations

import enum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from primum.domain.quantities import Disclosure, Neighbors
from primum.resources.blocks import Blocks
from primum.resources.conditions import StandingStatus
from primum.resources.datasets import Dataset
from primum.resources.fields import (
    Count,
    Delta,
    Digest,
    Epsilon,
    Part,
    Prose,
    ShortText,
    broken,
    cel,
    refuse_repeats,
    with_rules,
)
from primum.resources.metadata import Resource
from primum.resources.sharing import (
    QUOTAS_ONCE,
    Quotas,
    QuotaTerms,
    SchedulingTerms,
    UnlockingTerms,
    refuse_impossible_rules,
    refuse_repeated_quotas,
)


class Accounting(enum.StrEnum):
    """Which accounting policy vouches for a budget."""

    RDP = "RDP"
    GDP = "GDP"
    BASIC = "Basic"


class Guarantee(Part):
    """An (epsilon, delta) guarantee."""

    epsilon: Epsilon = Field(
        description=(
            'epsilon is the most that may be spent, a quoted decimal such as "8.0". Required; '
            "may be lowered."
        )
    )
    delta: Delta = Field(
        description=(
            'delta is the guarantee\'s delta, a quoted decimal such as "1e-5", below one '
            "over the number of units. "
            "Required; may be lowered."
        )
    )


class AccountingTerms(Part):
    """How a budget adds up what is spent."""

    policy: Accounting = Field(
        default=Accounting.RDP,
        description="policy is RDP, GDP, or Basic. Optional, RDP; immutable.",
    )


class PrivacyBudgetSpec(Part):
    """What a data steward promises to the units of one dataset."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(
                "self.dataset == oldSelf.dataset",
                "dataset is immutable; declare another PrivacyBudget",
            ),
            cel(
                "self.neighbors == oldSelf.neighbors",
                "neighbors is immutable; declare another PrivacyBudget",
            ),
            cel(
                "self.accounting == oldSelf.accounting",
                "accounting is immutable; declare another PrivacyBudget",
            ),
            cel(
                "double(self.guarantee.epsilon) <= double(oldSelf.guarantee.epsilon)",
                "guarantee.epsilon can only be lowered; a promise is not taken back",
            ),
            cel(
                "double(self.guarantee.delta) <= double(oldSelf.guarantee.delta)",
                "guarantee.delta can only be lowered; a promise is not taken back",
            ),
            cel(
                "has(self.blocks) == has(oldSelf.blocks)",
                "blocks can be neither added later nor removed; declare another PrivacyBudget",
            ),
            cel(
                "!has(self.blocks) || !has(self.dataset.units)",
                "dataset.units must be absent with blocks, whose units are counted",
            ),
            cel(
                "!has(self.blocks) || self.neighbors == 'AddOrRemoveOne'",
                "neighbors must be AddOrRemoveOne with blocks: replacing a unit could change two",
            ),
        )
    )

    dataset: Dataset = Field(description="dataset is what is protected. Required; immutable.")
    guarantee: Guarantee = Field(
        description=(
            "guarantee is the most that all Studies together may spend. Required; may be lowered."
        )
    )
    neighbors: Neighbors = Field(
        default=Neighbors.ADD_OR_REMOVE_ONE,
        description=(
            "neighbors is what two neighboring datasets differ by: AddOrRemoveOne or ReplaceOne. "
            "Optional, AddOrRemoveOne; immutable."
        ),
    )
    accounting: AccountingTerms = Field(
        default_factory=AccountingTerms,
        description="accounting is how spending is added up. Optional, policy RDP; immutable.",
        json_schema_extra={"default": {}},
    )
    disclosures: Annotated[list[Disclosure], Field(max_length=8)] = Field(
        default_factory=list,
        description=(
            "disclosures are what may leave the zone without a charge: Utility, Calibration, "
            "Fairness. Each one is "
            "printed on every certificate. Optional; absent means that nothing may."
        ),
        json_schema_extra={"default": [], "x-kubernetes-list-type": "set"},
    )
    blocks: Blocks | None = Field(
        default=None,
        description=(
            "blocks divide the dataset by time, cohort or site; each block has the whole "
            "guarantee for the units in it. Their names and sizes are public. Optional, one block; "
            "immutable, except that values may be added and end moved on."
        ),
    )
    unlocking: UnlockingTerms | None = Field(
        default=None,
        description=(
            "unlocking is how the budget of a block becomes available. Optional, all at once."
        ),
    )
    scheduling: SchedulingTerms | None = Field(
        default=None,
        description=(
            "scheduling is who is next among the claims that wait. Optional, first come, first "
            "served, and nobody waits."
        ),
    )
    quotas: Quotas | None = Field(
        default=None,
        description=(
            "quotas share the budget out among people; they are no promise to the people in the "
            "data, and no substitute for the guarantee. Optional, none."
        ),
        json_schema_extra={"x-kubernetes-list-type": "atomic", **with_rules(QUOTAS_ONCE)},
    )

    @field_validator("disclosures")
    @classmethod
    def _each_once(cls, value: list[Disclosure]) -> list[Disclosure]:
        refuse_repeats(value, "must list each disclosure once")
        return value

    @field_validator("quotas")
    @classmethod
    def _each_quota_once(cls, value: list[QuotaTerms] | None) -> list[QuotaTerms] | None:
        refuse_repeated_quotas(value or ())
        return value

    @model_validator(mode="after")
    def _rules_are_possible(self) -> PrivacyBudgetSpec:
        refuse_impossible_rules(self.unlocking, self.scheduling, self.quotas or ())
        return self

    @model_validator(mode="after")
    def _what_blocks_need(self) -> PrivacyBudgetSpec:
        if self.blocks is None:
            return self
        if self.dataset.units is not None:
            rule = "must have no dataset.units beside blocks, whose units are counted"
            raise broken(rule, self.dataset.units)
        if self.neighbors is not Neighbors.ADD_OR_REMOVE_ONE:
            # What several blocks spend is not added up because a neighboring dataset differs in
            # one block. Replacing a unit by one of another block differs in two.
            rule = "must have neighbors AddOrRemoveOne beside blocks"
            raise broken(rule, self.neighbors.value)
        return self


class PrivacyBudgetStatus(StandingStatus):
    """What the ledger says about the budget. A projection; the ledger is the truth."""

    account_id: ShortText | None = Field(
        default=None, description="accountId is the ledger account of the dataset. Optional."
    )
    dataset_digest: Digest | None = Field(
        default=None,
        description="datasetDigest is the digest of the dataset when it was registered. Optional.",
    )
    units: Count | None = Field(
        default=None,
        description="units is the number of privacy units. Optional.",
    )
    blocks: Count | None = Field(
        default=None,
        description="blocks is the number of blocks. Optional; absent without blocks.",
    )
    newest_block: ShortText | None = Field(
        default=None,
        description=(
            "newestBlock is the block by Time up to which the dataset is registered. Optional."
        ),
    )
    epsilon_spent: ShortText | None = Field(
        default=None,
        description=(
            "epsilonSpent is what was charged for good, of the fullest block, rounded up. Optional."
        ),
    )
    epsilon_reserved: ShortText | None = Field(
        default=None,
        description=(
            "epsilonReserved is what was charged and reserved together, of the fullest block, "
            "rounded up. Optional."
        ),
    )
    epsilon_left: ShortText | None = Field(
        default=None,
        description=(
            "epsilonLeft is what is left of the guarantee, of the fullest block, rounded down. "
            "Optional."
        ),
    )
    frozen: Prose | None = Field(
        default=None,
        description="frozen is why nothing may be reserved. Optional, absent unless frozen.",
    )


class PrivacyBudget(Resource):
    """PrivacyBudget is the guarantee promised to the units of one dataset."""

    kind: Literal["PrivacyBudget"] = Field(
        default="PrivacyBudget", description="kind is PrivacyBudget. Required."
    )
    spec: PrivacyBudgetSpec = Field(description="spec is what the data steward promises. Required.")

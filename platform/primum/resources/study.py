"""Study: what a data scientist asks for, from purpose to release. Immutable once declared."""

from __future__ import annotations

import enum
from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from primum.domain.study.spec import DataRole
from primum.resources.audits import Audit, AuditPolicy
from primum.resources.blocks import ChosenBlocks
from primum.resources.conditions import BoundedStatus
from primum.resources.datasets import DatasetOptions
from primum.resources.fields import (
    TEXT_LENGTH_MAX,
    Cron,
    Delta,
    Digest,
    Epsilon,
    Name,
    Part,
    Prose,
    Share,
    ShortText,
    SignedDecimal,
    Uri,
    Word,
    broken,
    cel,
    refuse_repeats,
    with_rules,
)
from primum.resources.jobs import Job
from primum.resources.metadata import Resource

POLICY_DEFAULT = (
    "clinical-default"  # The bundle that a hospital would want if nobody thought about it.
)

_REFERENCE_OF_ROLE = {
    DataRole.PRIVATE: "budget",
    DataRole.PUBLIC: "uri",
    DataRole.SYNTHETIC: "release",
}


class StudyData(Part):
    """One input of a Study."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            *(
                cel(
                    f"has(self.{reference}) == (self.role == '{role}')",
                    f"{reference} must be given exactly when role is {role}",
                )
                for role, reference in _REFERENCE_OF_ROLE.items()
            ),
            cel(
                "!has(self.blocks) || self.role == 'Private'",
                "blocks must be absent unless role is Private",
            ),
            cel(
                "!has(self.options) || self.role == 'Public'",
                "options must be absent unless role is Public",
            ),
        )
    )

    role: DataRole = Field(description="role is Private, Public, or Synthetic. Required.")
    budget: Name | None = Field(
        default=None,
        description=(
            "budget names the PrivacyBudget of private data, in the Study's namespace. Optional; "
            "with role Private."
        ),
    )
    release: Name | None = Field(
        default=None,
        description=(
            "release names the Release that synthetic data comes from. Optional; with role "
            "Synthetic."
        ),
    )
    uri: Uri | None = Field(
        default=None, description="uri is where public data lies. Optional; with role Public."
    )
    options: DatasetOptions | None = Field(
        default=None,
        description=(
            "options are how the driver reads public data. Optional, the driver's defaults; with "
            "role Public."
        ),
    )
    blocks: ChosenBlocks | None = Field(
        default=None,
        description=(
            "blocks are the blocks of the budget that are read and paid for, each one whole. "
            "Optional, all that exist when the Study is planned; with role Private."
        ),
    )

    @model_validator(mode="after")
    def _reference_of_the_role(self) -> StudyData:
        for role, reference in _REFERENCE_OF_ROLE.items():
            given = getattr(self, reference) is not None
            if given != (role is self.role):
                wanted = _REFERENCE_OF_ROLE[self.role]
                rule = f"must have {wanted} and no other reference, because its role is {self.role}"
                raise broken(rule, reference if given else "none")
        if self.blocks is not None and self.role is not DataRole.PRIVATE:
            raise broken(f"must have no blocks, because its role is {self.role}", "blocks")
        if self.options is not None and self.role is not DataRole.PUBLIC:
            raise broken(f"must have no options, because its role is {self.role}", "options")
        return self


class Privacy(Part):
    """What the Study claims."""

    epsilon: Epsilon = Field(
        description=(
            'epsilon is the most the Study may cost, a quoted decimal such as "3.0". Required.'
        )
    )
    delta: Delta = Field(
        description='delta is the claim\'s delta, a quoted decimal such as "1e-5". Required.',
    )


class ExpectationSeverity(enum.StrEnum):
    """What a failed expectation does."""

    CRITICAL = "Critical"
    WARNING = "Warning"


class Expectation(Part):
    """One expectation of Great Expectations."""

    type: Word = Field(
        description=(
            "type is the expectation's class name, such as ExpectColumnValuesToBeBetween. Required."
        )
    )
    column: ShortText | None = Field(
        default=None,
        description="column names the column. Optional; required by column expectations.",
    )
    min: SignedDecimal | None = Field(
        default=None,
        description="min is the smallest value allowed, a quoted decimal. Optional, none.",
    )
    max: SignedDecimal | None = Field(
        default=None,
        description="max is the largest value allowed, a quoted decimal. Optional, none.",
    )
    values: Annotated[list[ShortText], Field(min_length=1, max_length=256)] | None = Field(
        default=None,
        description="values are the values allowed, as quoted text. Optional, any.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    mostly: Share | None = Field(
        default=None,
        description=(
            "mostly is the share of rows that must meet it, a quoted decimal such as "
            '"0.99". Optional, all.'
        ),
    )
    severity: ExpectationSeverity = Field(
        default=ExpectationSeverity.CRITICAL,
        description=(
            "severity is Critical (a failure ends the Study) or Warning. Optional, Critical."
        ),
    )


class StudyRelease(Part):
    """What becomes of the result if every gate passes."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(
                "has(self.endpoint) != has(self.dataset)",
                "exactly one of endpoint and dataset must be given",
            )
        )
    )

    endpoint: Name | None = Field(
        default=None,
        description="endpoint names the endpoint that serves the model. Optional; or dataset.",
    )
    dataset: Name | None = Field(
        default=None,
        description="dataset names the Release of synthetic data. Optional; or endpoint.",
    )
    audit_schedule: Cron | None = Field(
        default=None,
        description=(
            "auditSchedule is when the release is audited again, as cron in UTC, such as "
            '"0 3 * * 0". Optional, never.'
        ),
    )
    audit_policy: AuditPolicy | None = Field(
        default=None,
        description=(
            "auditPolicy is what begins audits besides, and how they run. Optional; its defaults "
            "where there is an auditSchedule, otherwise no audits."
        ),
    )

    @model_validator(mode="after")
    def _one_target(self) -> StudyRelease:
        if (self.endpoint is None) == (self.dataset is None):
            found = "neither" if self.endpoint is None else "both"
            raise broken("must name exactly one of endpoint and dataset", found)
        return self


class StudySpec(Part):
    """What a Study asks for."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(
                "self == oldSelf",
                "a Study is immutable; delete it and declare it again, or give the new one "
                "another name",
            )
        )
    )

    purpose: Prose = Field(
        description=(
            "purpose says what the Study is for, in a sentence that the ledger keeps. Required."
        )
    )
    data: Annotated[list[StudyData], Field(min_length=1, max_length=16)] = Field(
        description="data are the inputs. Required.",
        json_schema_extra={
            "x-kubernetes-list-type": "atomic",
            **with_rules(
                cel(
                    "self.all(x, !has(x.budget) || self.exists_one(y, has(y.budget) && "
                    "y.budget == x.budget))",
                    "each budget must be listed once",
                )
            ),
        },
    )
    privacy: Privacy | None = Field(
        default=None,
        description=(
            "privacy is what the Study claims. Optional in the schema, never defaulted; "
            "without it a Study on "
            "private data is refused at Plan with reason NoMechanism."
        ),
    )
    job: Job = Field(description="job is what is run. Required.")
    expectations: Annotated[list[Expectation], Field(max_length=128)] = Field(
        default_factory=list,
        description="expectations are checked before the job runs. Optional, none.",
        json_schema_extra={"default": [], "x-kubernetes-list-type": "atomic"},
    )
    audits: Annotated[list[Audit], Field(max_length=16)] = Field(
        default_factory=list,
        description=(
            "audits are the attacks run before release. Optional, none; gates may ask for them."
        ),
        json_schema_extra={"default": [], "x-kubernetes-list-type": "atomic"},
    )
    policy: Name = Field(
        default=POLICY_DEFAULT,
        description=(
            "policy names the GatePolicy, or the built-in bundle, that decides. Optional, "
            "clinical-default."
        ),
    )
    release: StudyRelease | None = Field(
        default=None,
        description="release is what becomes of the result. Optional, nothing is released.",
    )

    @model_validator(mode="after")
    def _budgets_once(self) -> StudySpec:
        refuse_repeats(
            [item.budget for item in self.data if item.budget],
            "must list each budget once under data",
        )
        return self


PublicText: TypeAlias = Annotated[str, Field(max_length=TEXT_LENGTH_MAX)]


class StudyStatus(BoundedStatus):
    """How far a Study is. A projection of ledger and evidence; public facts only."""

    stage: ShortText | None = Field(
        default=None, description="stage is Plan, Reserve, Run, Check, or Release. Optional."
    )
    headline: Prose | None = Field(
        default=None,
        description="headline is the plan in one line. Optional.",
    )
    plan_digest: Digest | None = Field(
        default=None,
        description="planDigest is the digest of the plan. Optional.",
    )
    run_id: ShortText | None = Field(
        default=None,
        description="runId is the pipeline run. Optional.",
    )
    epsilon_claimed: ShortText | None = Field(
        default=None, description="epsilonClaimed is what the plan costs, rounded up. Optional."
    )
    epsilon_spent: ShortText | None = Field(
        default=None,
        description=(
            "epsilonSpent is what was charged for good, counted as epsilonClaimed is; less than it "
            "where a training ended early. Rounded up. Optional."
        ),
    )
    claim: Prose | None = Field(
        default=None, description="claim is what may be said about the result, or Void. Optional."
    )
    certificate_uri: ShortText | None = Field(
        default=None, description="certificateUri is where the certificate lies. Optional."
    )
    certificate_digest: Digest | None = Field(
        default=None, description="certificateDigest is the digest of the certificate. Optional."
    )
    endpoint_url: ShortText | None = Field(
        default=None, description="endpointUrl is where the release is served. Optional."
    )
    alternatives: Annotated[list[PublicText], Field(max_length=16)] = Field(
        default_factory=list,
        description="alternatives are what would fit, where the plan did not. Optional.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    public: Annotated[dict[str, PublicText], Field(max_length=64)] = Field(
        default_factory=dict,
        description="public are the figures that may leave the zone, as text. Optional.",
    )


class Study(Resource):
    """Study is one bounded use of data: a job, its privacy, its audits, and its release."""

    kind: Literal["Study"] = Field(default="Study", description="kind is Study. Required.")
    spec: StudySpec = Field(description="spec is what the data scientist asks for. Required.")

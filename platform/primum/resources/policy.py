"""GatePolicy: named CEL rules over evidence, by stage. Declared here, evaluated elsewhere."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from primum.domain.governance.gates import (
    ALLOWED_PLUGINS_MAX,
    EXPRESSION_LENGTH_MAX,
    RULES_MAX,
    GateStage,
    Severity,
)
from primum.resources.conditions import StandingStatus
from primum.resources.fields import (
    Digest,
    Name,
    Part,
    ShortText,
    Word,
    broken,
    cel,
    refuse_repeats,
    with_rules,
)
from primum.resources.metadata import Resource


class GateRule(Part):
    """One rule."""

    name: Name = Field(
        description="name identifies the rule in verdicts; unique in the policy. Required.",
    )
    stage: GateStage = Field(
        description="stage is Admission, Data, Samples, Promotion, or Release. Required."
    )
    expression: str = Field(
        min_length=1,
        max_length=EXPRESSION_LENGTH_MAX,
        description=(
            "expression is the CEL rule; it must be true, and any error in it is a deny. Required."
        ),
    )
    message: ShortText = Field(
        description="message says what is wrong where it is not true. Required.",
    )
    severity: Severity = Field(
        default=Severity.DENY, description="severity is Deny or Warn. Optional, Deny."
    )


class GatePolicySpec(Part):
    """Rules that decide about Studies and releases."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(
                "has(self.extends) || self.rules.size() > 0",
                "rules must not be empty unless extends names a bundle",
            )
        )
    )

    extends: Name | None = Field(
        default=None,
        description=(
            "extends names the built-in bundle whose rules hold too; a rule of the same name "
            "replaces the bundle's. "
            "Optional, none."
        ),
    )
    rules: Annotated[list[GateRule], Field(max_length=RULES_MAX)] = Field(
        default_factory=list,
        description="rules are the gates. Optional where extends is given, otherwise at least one.",
        json_schema_extra={
            "default": [],
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    )
    allowed_plugins: Annotated[list[Word], Field(max_length=ALLOWED_PLUGINS_MAX)] = Field(
        default_factory=list,
        description=(
            "allowedPlugins are the unreviewed plug-ins that may run, by name. Optional, none."
        ),
        json_schema_extra={"default": [], "x-kubernetes-list-type": "set"},
    )

    @field_validator("rules")
    @classmethod
    def _names_once(cls, value: list[GateRule]) -> list[GateRule]:
        refuse_repeats([rule.name for rule in value], "must name each rule once")
        return value

    @field_validator("allowed_plugins")
    @classmethod
    def _plugins_once(cls, value: list[str]) -> list[str]:
        refuse_repeats(value, "must name each plug-in once")
        return value

    @model_validator(mode="after")
    def _says_something(self) -> GatePolicySpec:
        if not self.rules and self.extends is None:
            raise broken("must have rules, or extends with the name of a bundle", "neither")
        return self


class GatePolicyStatus(StandingStatus):
    """Whether the rules compile."""

    digest: Digest | None = Field(
        default=None,
        description="digest is the digest of the policy. Optional.",
    )


class GatePolicy(Resource):
    """GatePolicy is a set of named CEL rules over evidence, by stage."""

    kind: Literal["GatePolicy"] = Field(
        default="GatePolicy",
        description="kind is GatePolicy. Required.",
    )
    spec: GatePolicySpec = Field(description="spec is the rules. Required.")

"""A dataset in a PrivacyBudget: where it lies, whose presence counts, and how it is read.

Only what people write. All of it is public: no option may hold a secret or a measured value.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from primum.domain.quantities import PrivacyUnit
from primum.resources.fields import (
    Count,
    Part,
    ShortText,
    SignedDecimal,
    Uri,
    broken,
    cel,
    refuse_repeats,
    with_rules,
)


class Duplicates(enum.StrEnum):
    """What a dataset driver does with rows that are exact copies of another."""

    KEEP = "Keep"
    DROP = "Drop"


class Download(enum.StrEnum):
    """Whether a driver may fetch a published file."""

    ALLOW = "Allow"
    NEVER = "Never"


class Color(enum.StrEnum):
    """What images are read as."""

    GRAY = "Gray"
    RGB = "RGB"


class FeatureColumn(Part):
    """A feature column and its public range, from a data dictionary, never from the data."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(
                "has(self.low) == has(self.high) && has(self.low) != has(self.values)",
                "a feature must have low and high, or values",
            ),
            cel(
                "!has(self.missing) || has(self.low)",
                "missing must be absent with values",
            ),
        )
    )

    name: ShortText = Field(description="name is the column's name. Required.")
    low: SignedDecimal | None = Field(
        default=None,
        description=(
            "low is the public lower bound of a number, a quoted decimal. Optional; or values."
        ),
    )
    high: SignedDecimal | None = Field(
        default=None,
        description=(
            "high is the public upper bound of a number, a quoted decimal. Optional; or values."
        ),
    )
    missing: SignedDecimal | None = Field(
        default=None,
        description=(
            "missing is the number that an empty cell stands for, a quoted decimal. Optional; "
            "without it an empty cell is refused."
        ),
    )
    values: Annotated[list[ShortText], Field(min_length=1, max_length=64)] | None = Field(
        default=None,
        description=(
            "values are the texts of a categorical column, each of which becomes a feature of 0 "
            "and 1. Optional; or low and high."
        ),
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )

    @model_validator(mode="after")
    def _number_or_category(self) -> FeatureColumn:
        number, category = self.low is not None, self.values is not None
        if (self.high is not None) != number or number == category:
            raise broken("must have low and high, or values", "both or neither")
        if self.missing is not None and category:
            raise broken("must have no missing beside values", self.missing)
        refuse_repeats(self.values or [], "must name each value once")
        return self

    def settings(self) -> Any:
        """What the driver reads: bounds, bounds and what is missing, or values."""
        if self.values is not None:
            return {"values": list(self.values)}
        if self.missing is None:
            return [self.low, self.high]
        return {"low": self.low, "high": self.high, "missing": self.missing}


class SubgroupColumn(Part):
    """A column whose values are groups that a model is evaluated in."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(
                "has(self.values) != has(self.cuts)",
                "a subgroup must have either values or cuts",
            )
        )
    )

    column: ShortText = Field(description="column is the column's name. Required.")
    values: Annotated[list[ShortText], Field(min_length=1, max_length=64)] | None = Field(
        default=None,
        description=(
            "values are texts, one group each; whatever else is in the column is the group other. "
            "Optional; or cuts."
        ),
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    cuts: Annotated[list[SignedDecimal], Field(min_length=1, max_length=16)] | None = Field(
        default=None,
        description=(
            "cuts are rising numbers between which the groups of a numeric column lie, quoted "
            "decimals; a number equal to a cut belongs above it. Optional; or values."
        ),
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )

    @model_validator(mode="after")
    def _values_or_cuts(self) -> SubgroupColumn:
        if (self.values is None) == (self.cuts is None):
            raise broken("must have either values or cuts", "both or neither")
        refuse_repeats(self.values or [], "must name each value once")
        return self


class GrayWindow(Part):
    """The gray levels that become 0 and 1; what lies outside is clipped."""

    low: SignedDecimal = Field(
        description=(
            "low is the level that becomes 0, a quoted decimal, in the units of the pixels after "
            "the file's own scaling. Required."
        )
    )
    high: SignedDecimal = Field(
        description="high is the level that becomes 1, a quoted decimal. Required."
    )


class DatasetOptions(Part):
    """How a driver reads the dataset. Configuration that anyone may see; no secrets."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(
                "[has(self.label), has(self.labels), has(self.mask)].filter(given, given).size() "
                "<= 1",
                "at most one of label, labels and mask may be given",
            ),
            cel(
                "!has(self.readers) || (!has(self.labels) && !has(self.mask))",
                "readers are for one class per row, not for labels or mask",
            ),
        )
    )

    label: ShortText | None = Field(
        default=None,
        description="label names the column to be predicted. Optional, the driver's own.",
    )
    labels: Annotated[list[ShortText], Field(min_length=1, max_length=64)] | None = Field(
        default=None,
        description=(
            "labels name columns of 0 and 1, any of which may hold for an example; they are the "
            "classes. Optional; instead of label."
        ),
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    mask: ShortText | None = Field(
        default=None,
        description=(
            "mask names the column of masks, which have the number of a class for each pixel or "
            "voxel. Optional; instead of label."
        ),
    )
    classes: Annotated[list[ShortText], Field(min_length=2, max_length=256)] | None = Field(
        default=None,
        description="classes are the label's values, in order. Optional, the driver's own.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    positive: ShortText | None = Field(
        default=None,
        description="positive is the class that counts as positive. Optional, the driver's own.",
    )
    features: Annotated[list[FeatureColumn], Field(min_length=1, max_length=512)] | None = Field(
        default=None,
        description=(
            "features are the feature columns with their public ranges. "
            "Optional, the driver's own; needed by csv and parquet."
        ),
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    )
    unit_column: ShortText | None = Field(
        default=None,
        description=(
            "unitColumn names the column that tells the privacy units apart. "
            "Optional, one unit per row."
        ),
    )
    max_examples_per_unit: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = Field(
        default=None,
        description=(
            "maxExamplesPerUnit is how many rows a privacy unit may contribute; of more, a hash "
            "of the unit and the row chooses. Optional; without it a unit may have one row only."
        ),
    )
    subgroups: Annotated[list[SubgroupColumn], Field(min_length=1, max_length=16)] | None = Field(
        default=None,
        description=(
            "subgroups are groups that models are evaluated in. Optional, the driver's own."
        ),
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["column"],
        },
    )
    readers: Annotated[list[ShortText], Field(min_length=1, max_length=16)] | None = Field(
        default=None,
        description=(
            "readers are columns of what people said of a row: the class or its number, empty "
            "where one did not look. Models are compared with them. Only for label. Optional, none."
        ),
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    table: ShortText | None = Field(
        default=None,
        description=(
            "table is the CSV or Parquet file in the folder that has a row per example. Optional; "
            "needed by images, dicom and nifti."
        ),
    )
    path_column: ShortText | None = Field(
        default=None,
        description="pathColumn names the table's column of files. Optional, path.",
    )
    window: GrayWindow | None = Field(
        default=None,
        description=(
            "window is which gray levels become 0 and 1. Optional, the range of 8 or 16 unsigned "
            "bits; needed by dicom and nifti."
        ),
    )
    shape: (
        Annotated[
            list[Annotated[int, Field(strict=True, ge=1, le=4096)]],
            Field(min_length=2, max_length=3),
        ]
        | None
    ) = Field(
        default=None,
        description=(
            "shape is height and width, or depth, height and width, that every file is brought "
            "to. Optional; without it all must have one shape."
        ),
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    color: Color | None = Field(
        default=None,
        description="color is Gray or RGB, which image files are read as. Optional, Gray.",
    )
    duplicates: Duplicates | None = Field(
        default=None,
        description="duplicates is Keep or Drop, for exact copies. Optional, the driver's own.",
    )
    download: Download | None = Field(
        default=None,
        description="download is Allow to fetch a published file, or Never. Optional, Never.",
    )

    @field_validator("classes")
    @classmethod
    def _classes_once(cls, value: list[str] | None) -> list[str] | None:
        refuse_repeats(value or [], "must name each class once")
        return value

    @field_validator("features")
    @classmethod
    def _columns_once(cls, value: list[FeatureColumn] | None) -> list[FeatureColumn] | None:
        refuse_repeats([column.name for column in value or []], "must name each column once")
        return value

    @field_validator("subgroups")
    @classmethod
    def _subgroups_once(cls, value: list[SubgroupColumn] | None) -> list[SubgroupColumn] | None:
        refuse_repeats([group.column for group in value or []], "must name each column once")
        return value

    @model_validator(mode="after")
    def _one_kind_of_label(self) -> DatasetOptions:
        given = [n for n in ("label", "labels", "mask") if getattr(self, n) is not None]
        if len(given) > 1:
            raise broken("must have at most one of label, labels and mask", ", ".join(given))
        refuse_repeats(self.labels or [], "must name each label once")
        refuse_repeats(self.readers or [], "must name each reader once")
        if self.readers and (self.labels is not None or self.mask is not None):
            raise broken("must have no readers with labels or mask", ", ".join(self.readers))
        return self

    def settings(self) -> dict[str, Any]:
        """What the driver reads: named settings, features by the names of their columns."""
        given: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        if self.features:
            given["features"] = {column.name: column.settings() for column in self.features}
        return given


class Dataset(Part):
    """Where a dataset lies and whose presence in it is protected."""

    uri: Uri = Field(
        description=(
            "uri is where the dataset lies, as scheme://path; the scheme names a dataset driver. "
            "Required."
        )
    )
    unit: PrivacyUnit = Field(
        description=(
            "unit is whose presence is protected: Patient, ImagingStudy, Series, Image, or Site. "
            "Required."
        )
    )
    units: Count | None = Field(
        default=None,
        description=(
            "units is the declared public number of units. Optional; without it the "
            "steward's zone counts them once "
            "and the number is listed as an unprotected quantity. Must be absent with blocks."
        ),
    )
    options: DatasetOptions | None = Field(
        default=None,
        description=(
            "options are how the driver reads the dataset. Optional, the driver's defaults."
        ),
    )

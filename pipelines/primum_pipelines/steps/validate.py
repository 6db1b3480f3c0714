"""Validate: Great Expectations on each private dataset, before anything trains on it.

Only whether each expectation holds may leave; counts are Restricted, and values never reach a
result: the result format asks for none. Whatever cannot be checked counts as failed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from primum.domain.accounting.events import NoEvent
from primum.domain.canonical import JSON
from primum.domain.conditions import Reason
from primum.domain.errors import InvalidValue
from primum.domain.governance.evidence import Evidence, EvidenceKind, Verdict
from primum.domain.study.plan import Access
from primum.domain.study.steps import Receipt, StepStatus, WorkRequest, WorkResult
from primum_pipelines.datasets.access import open_private, token_claims
from primum_pipelines.datasets.table import LabelTask
from primum_pipelines.steps import records

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from primum_pipelines.datasets.table import UnitTable

LABEL = "label"
_RESULT_FORMAT = {"result_format": "SUMMARY", "partial_unexpected_count": 0}
_CRITICAL = "Critical"
_ROUNDING_SHARE = 0.01  # Published bounds are rounded; a hundredth of the range covers that.
_COUNTS = ("element_count", "unexpected_count", "missing_count")


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation and how it came out.

    Args:
        type: Class name of the expectation.
        column: Its column, or empty.
        severity: ``Critical`` or ``Warning``.
        held: Whether it holds; false where it could not be checked.
        counts: Rows looked at, rows missing, rows against it. Restricted.
    """

    type: str
    column: str
    severity: str
    held: bool
    counts: Mapping[str, int]


def run(request: WorkRequest) -> WorkResult:
    """Check every dataset of the plan against the Study's expectations and the standing ones.

    Returns:
        DataQuality evidence per budget; a failed step with reason ``ExpectationsFailed`` where a
        critical expectation does not hold.

    Raises:
        InvalidValue: If an expectation is not one of Great Expectations', or has a wrong parameter.
    """
    _load_engine()
    seconds = records.stopwatch()
    evidence, receipts, failed = [], [], []
    for access in records.accesses_of(request, "validate"):
        checks = check_table(open_private(request, access.name), request.context["expectations"])
        broken = [c for c in checks if not c.held and c.severity == _CRITICAL]
        failed += [f"{_named(c)} of budget {access.budget}" for c in broken]
        evidence.append(_evidence(request, access, checks))
        token = str(token_claims(request, access.name)["id"])
        receipts.append(Receipt(access.name, access.budget, NoEvent(), {}, token))
    if failed:
        return records.report(
            message=f"data must meet its expectations; failed {', '.join(failed)}",
            seconds=seconds(),
            evidence=evidence,
            receipts=receipts,
            status=StepStatus.FAILED,
            reason=Reason.EXPECTATIONS_FAILED,
        )
    return records.report(
        message=f"validated {len(evidence)} dataset{'' if len(evidence) == 1 else 's'}",
        seconds=seconds(),
        evidence=evidence,
        receipts=receipts,
        reason=Reason.EXPECTATIONS_MET,
    )


def check_table(table: UnitTable, expectations: object) -> list[Check]:
    """Run the standing expectations and a Study's own on a table.

    Args:
        table: The opened dataset; images are looked at by the mean and the spread of each.
        expectations: ``{"type", "column", "min", "max", "values", "mostly", "severity"}`` mappings.

    Returns:
        One check per expectation, in order; missing columns are checks that did not hold.

    Raises:
        InvalidValue: If an expectation is unknown or malformed.
    """
    gx = _load_engine()
    frame = _frame(table)
    asked = list(_standing(table))
    if isinstance(expectations, list | tuple):
        asked += [records.mapping(item) for item in expectations]
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    batch = (
        context.data_sources.add_pandas("zone")
        .add_dataframe_asset("table")
        .add_batch_definition_whole_dataframe("all")
        .get_batch({"dataframe": frame})
    )
    return [_checked(gx, batch, item, frame) for item in asked]


def _load_engine() -> Any:
    """Great Expectations with whatever would call home switched off before its import."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        # Its optional cloud clients warn about what is not installed; nothing here uses them.
        warnings.simplefilter("ignore")
        import great_expectations

    return great_expectations


def _frame(table: UnitTable) -> pd.DataFrame:
    import pandas as pd

    if table.pictures:
        flat = table.features.reshape(len(table.labels), -1)
        columns = {"mean": flat.mean(axis=1), "std": flat.std(axis=1)}
    else:
        columns = {name: table.features[:, i] for i, name in enumerate(table.feature_names)}
    return pd.DataFrame({**columns, **_label_columns(table)})


def _label_columns(table: UnitTable) -> dict[str, np.ndarray]:
    """The class of each row by name; of several labels each one, of a mask its greatest class."""
    import numpy as np

    if table.task is LabelTask.MULTI_LABEL:
        return {f"{LABEL}.{name}": table.labels[:, i] for i, name in enumerate(table.classes)}
    numbers = table.labels
    if table.task is LabelTask.SEGMENTATION:
        numbers = table.labels.reshape(len(table.labels), -1).max(axis=1).astype(np.int64)
    known = (numbers >= 0) & (numbers < len(table.classes))
    names = np.array([*table.classes, None], dtype=object)
    return {LABEL: names[np.where(known, numbers, len(table.classes))]}


def _standing(table: UnitTable) -> Sequence[Mapping[str, JSON]]:
    """What every dataset must meet: known labels, features present and within public bounds."""
    several = table.task is LabelTask.MULTI_LABEL
    allowed = ["0", "1"] if several else list(table.classes)
    asked: list[Mapping[str, JSON]] = []
    for column in [f"{LABEL}.{name}" for name in table.classes] if several else [LABEL]:
        asked.append({"type": "ExpectColumnValuesToNotBeNull", "column": column})
        asked.append({"type": "ExpectColumnValuesToBeInSet", "column": column, "values": allowed})
    if table.pictures:
        bounds = {"mean": (0.0, 1.0), "std": (0.0, 1.0)}
    elif table.feature_low is None or table.feature_high is None:
        return asked
    else:
        margins = _ROUNDING_SHARE * (table.feature_high - table.feature_low)
        lows, highs = table.feature_low - margins, table.feature_high + margins
        bounds = {
            name: (float(low), float(high))
            for name, low, high in zip(table.feature_names, lows, highs, strict=True)
        }
    for name, (low, high) in bounds.items():
        asked.append({"type": "ExpectColumnValuesToNotBeNull", "column": name})
        asked.append(
            {
                "type": "ExpectColumnValuesToBeBetween",
                "column": name,
                "min": repr(low),
                "max": repr(high),
            }
        )
    return asked


def _checked(gx: Any, batch: Any, item: Mapping[str, JSON], frame: pd.DataFrame) -> Check:
    kind, column = str(item.get("type", "")), str(item.get("column", ""))
    expectation = _expectation(gx, kind, column, item, frame)
    result = batch.validate(expectation, result_format=_RESULT_FORMAT).to_json_dict()
    found = result.get("result") or {}
    counts = {name: int(found[name]) for name in _COUNTS if isinstance(found.get(name), int)}
    raised = any(
        bool(part.get("raised_exception"))
        for part in _exceptions(result.get("exception_info") or {})
    )
    return Check(
        type=kind,
        column=column,
        severity=str(item.get("severity", _CRITICAL)),
        held=bool(result.get("success")) and not raised,
        counts=counts,
    )


def _exceptions(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Great Expectations gives one record, or one per metric."""
    if "raised_exception" in info:
        return [info]
    return [part for part in info.values() if isinstance(part, Mapping)]


def _expectation(
    gx: Any, kind: str, column: str, item: Mapping[str, JSON], frame: pd.DataFrame
) -> Any:
    found = getattr(gx.expectations, kind, None)
    if not isinstance(found, type) or not issubclass(found, gx.expectations.Expectation):
        raise InvalidValue(
            "spec.expectations.type",
            "must be the class name of an expectation of Great Expectations",
            kind,
            "For example ExpectColumnValuesToBeBetween.",
        )
    known = set(getattr(found, "__fields__", ()))
    arguments: dict[str, Any] = {}
    if column:
        arguments["column"] = column
    for ours, theirs in (("min", "min_value"), ("max", "max_value"), ("mostly", "mostly")):
        if item.get(ours) is not None:
            arguments[theirs] = float(str(item[ours]))
    if item.get("values") is not None:
        numeric = column in frame.columns and frame[column].dtype.kind in "iuf"
        values = records.texts(item["values"])
        arguments["value_set"] = [float(value) for value in values] if numeric else list(values)
    for name in arguments:
        if name not in known:
            raise InvalidValue(f"spec.expectations {kind}", f"must not have {name}", name)
    try:
        return found(**arguments)
    except (TypeError, ValueError) as error:
        kind_of_error = type(error).__name__
        raise InvalidValue(
            f"spec.expectations {kind}", "must have the parameters it needs", kind_of_error
        ) from None


def _named(check: Check) -> str:
    return f"{check.type} on {check.column}" if check.column else check.type


def _evidence(request: WorkRequest, access: Access, checks: Sequence[Check]) -> Evidence:
    good = all(check.held or check.severity != _CRITICAL for check in checks)
    assertions: list[JSON] = [
        {
            "assertion": check.type,
            "column": check.column,
            "severity": check.severity,
            "success": check.held,
        }
        for check in checks
    ]
    counts: list[JSON] = [dict(check.counts) for check in checks]
    return records.record(
        request,
        EvidenceKind.DATA_QUALITY,
        name=access.budget,
        subject="",
        verdict=Verdict.PASS if good else Verdict.FAIL,
        public={"budget": access.budget, "assertions": assertions},
        restricted={"counts": counts},
    )

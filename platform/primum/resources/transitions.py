"""What of a resource may change once it was declared.

The CEL rules in the CRDs say the same to the API server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.names import ResourceKey
from primum.resources.blocks import check_blocks_change
from primum.resources.kinds import KINDS
from primum.resources.wording import first_problem, shown

_FIXED: Mapping[str, tuple[str, ...]] = {
    "PrivacyBudget": ("dataset", "neighbors", "accounting"),
    "Study": ("purpose", "data", "privacy", "job", "expectations", "audits", "policy", "release"),
    "GatePolicy": (),
    "Release": ("kind", "artifact", "certificate", "claim", "study", "endpoint"),
    "AuditRun": ("release", "study", "audit", "causes", "activeDeadlineSeconds"),
}
_REMEDY: Mapping[str, str] = {
    "PrivacyBudget": "Declare another PrivacyBudget; what was spent on the dataset stays spent.",
    "Study": "Delete the Study and declare it again, or give the new one another name.",
    "Release": "A new result is a new Release.",
    "AuditRun": "Create another AuditRun.",
}


def check_transition(
    key: ResourceKey, old_spec: Mapping[str, JSON], new_spec: Mapping[str, JSON]
) -> None:
    """Refuse a change that a kind does not allow.

    Absent and explicitly written defaults are the same.

    Args:
        key: The resource.
        old_spec: The spec as stored.
        new_spec: The spec that is to take its place.

    Raises:
        InvalidValue: If the change is not allowed.
    """
    old, new = _normal(key, old_spec), _normal(key, new_spec)
    for name in _FIXED[key.kind]:
        where, before, after = _first_difference(f"spec.{name}", old.get(name), new.get(name))
        if where:
            found = f"a change from {shown(before)} to {shown(after)}"
            raise InvalidValue(f"{key}: {where}", "must stay as declared", found, _REMEDY[key.kind])
    check = _FURTHER.get(key.kind)
    if check is not None:
        check(key, old, new)


def _only_lowered_or_extended(
    key: ResourceKey, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
    for name in ("epsilon", "delta"):
        before, after = old["guarantee"][name], new["guarantee"][name]
        if Decimal(after) > Decimal(before):
            raise InvalidValue(
                f"{key}: spec.guarantee.{name}",
                f"must be at most {before}, because a promise is not taken back",
                after,
            )
    field, rule, found = check_blocks_change(old.get("blocks"), new.get("blocks"))
    if rule:
        where = f"{key}: spec.blocks{field}"
        raise InvalidValue(where, rule, found, _REMEDY[key.kind])


def _revoked_for_good(key: ResourceKey, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    if "revocation" in old and old["revocation"] != new.get("revocation"):
        raise InvalidValue(
            f"{key}: spec.revocation",
            "must stay as declared, because a revocation is final",
            "a change",
        )


_FURTHER: Mapping[str, Callable[[ResourceKey, Mapping[str, Any], Mapping[str, Any]], None]] = {
    "PrivacyBudget": _only_lowered_or_extended,
    "Release": _revoked_for_good,
}


def _normal(key: ResourceKey, spec: Mapping[str, JSON]) -> dict[str, Any]:
    model = KINDS[key.kind].spec
    try:
        checked = model.model_validate(spec, by_alias=True, by_name=False)
    except ValidationError as error:
        raise first_problem(error, model, about=str(key), within="spec") from None
    dumped: dict[str, Any] = checked.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dumped


def _first_difference(path: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """The innermost place where two values differ, or an empty path."""
    if old == new:
        return "", None, None
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                return _first_difference(f"{path}.{name}", old.get(name), new.get(name))
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return path, _items(old), _items(new)
        place = next(n for n, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
        return _first_difference(f"{path}[{place}]", old[place], new[place])
    return path, old, new


def _items(values: list[Any]) -> str:
    return f"{len(values)} item{'' if len(values) == 1 else 's'}"

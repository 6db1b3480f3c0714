"""Built-in policy bundles: GatePolicy files that ship with the platform, found by name.

A bundle is exactly what an organisation would write itself; nothing of it lives in Python. Reading
is strict, and a bundle that cannot be read is an error at start, never an empty policy.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from typing import Any

from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import InvalidValue
from primum.domain.governance.gates import Policy, extended, policy_from_spec

API_VERSION = "primum.dev/v1alpha1"
EXTENDS_DEPTH_MAX = 4  # Nobody can say what a longer chain allows.


@functools.cache
def bundle_names() -> tuple[str, ...]:
    """Names of the built-in bundles, sorted."""
    folder = resources.files("primum_policies") / "bundles"
    names = (item.name for item in folder.iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def bundle_spec(name: str) -> Mapping[str, JSON] | None:
    """The spec of a built-in bundle, or ``None`` if there is none of that name."""
    return dict(_read(name)) if name in bundle_names() else None


def bundle_text(name: str) -> str:
    """A built-in bundle's file, to print or to start an own policy from.

    Raises:
        InvalidValue: If there is none of that name.
    """
    if name not in bundle_names():
        raise InvalidValue("bundle", f"must be one of {', '.join(bundle_names())}", name)
    path = resources.files("primum_policies") / "bundles" / f"{name}.yaml"
    return path.read_text(encoding="utf-8")


def resolved(spec: Mapping[str, JSON]) -> Policy:
    """A policy with the rules of every bundle that it extends.

    Raises:
        InvalidValue: If a field breaks its rule, or it extends what is no built-in bundle.
    """
    return _resolved(spec, EXTENDS_DEPTH_MAX)


def _resolved(spec: Mapping[str, JSON], depth: int) -> Policy:
    policy = policy_from_spec(spec)
    if not policy.extends:
        return policy
    base = bundle_spec(policy.extends)
    if base is None:
        rule = f"must be one of {', '.join(bundle_names())}"
        raise InvalidValue("spec.extends", rule, policy.extends)
    if depth == 0:
        raise InvalidValue("spec.extends", f"must chain at most {EXTENDS_DEPTH_MAX}", "more")
    return extended(_resolved(base, depth - 1), policy)


@functools.cache
def _read(name: str) -> Mapping[str, JSON]:
    import yaml

    value: Any = yaml.safe_load(bundle_text(name))
    kind = (value.get("apiVersion"), value.get("kind")) if isinstance(value, dict) else None
    if kind != (API_VERSION, "GatePolicy") or value["metadata"]["name"] != name:
        raise InvalidValue(f"bundles/{name}.yaml", "must be the GatePolicy of its name", kind)
    spec = value["spec"]
    canonical_json(spec)  # Refuses floats: an unquoted number in a bundle is a mistake.
    if not isinstance(spec, dict):
        raise InvalidValue(f"bundles/{name}.yaml", "must have a spec", type(spec).__name__)
    return spec

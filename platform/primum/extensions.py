"""Finds what is registered under the project's entry-point groups, by name. Light.

Imports only what is asked for.

Built-ins and third parties use the same door, and nothing registers itself by being imported. Two
distributions that register one name for different things are refused, so that nobody can quietly
replace a reviewed part.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from primum.domain.errors import Conflict, NotFound

GROUPS = (
    "primum.audits",
    "primum.datasets",
    "primum.job_kinds",
    "primum.models",
    "primum.policy_engines",
    "primum.sample_filters",
    "primum.step_runtime",
    "primum.training_algorithms",
)


@functools.cache
def _points(group: str) -> Mapping[str, metadata.EntryPoint]:
    found: dict[str, metadata.EntryPoint] = {}
    for point in metadata.entry_points(group=group):
        earlier = found.get(point.name)
        if earlier is not None and earlier.value != point.value:
            raise Conflict(
                f"{group} {point.name} must be registered once; "
                f"found {earlier.value} and {point.value}. "
                "Remove one of the distributions."
            )
        found[point.name] = point
    return dict(sorted(found.items()))


def names(group: str) -> tuple[str, ...]:
    """The registered names of a group, sorted; imports nothing.

    Raises:
        Conflict: If two distributions register the same name for different things.
    """
    return tuple(_points(group))


def load(group: str, name: str) -> Any:
    """What is registered under a name; imports its module.

    Raises:
        NotFound: If nothing is; lists what there is.
    """
    point = _points(group).get(name)
    if point is None:
        raise NotFound(f"{group} must have {name}; found {', '.join(names(group)) or 'nothing'}.")
    return point.load()


@functools.cache
def fingerprint(group: str) -> str:
    """Digest of everything that is registered under a group: names, versions and code.

    Of code it is every Python file of the packages that the names lead to, as installed here when
    it is first asked for. Imports no module of theirs.

    Raises:
        Conflict: As ``names``.
    """
    digest = hashlib.sha256()
    roots: set[str] = set()
    for name, point in _points(group).items():
        version = point.dist.version if point.dist else ""
        digest.update(f"{name}\0{point.value}\0{version}\0".encode())
        roots.add(point.module.partition(".")[0])
    for root in sorted(roots):
        for place, path in _python_files(root):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{place}\0{content}\0".encode())
    return f"sha256:{digest.hexdigest()}"


def _python_files(root: str) -> list[tuple[str, Path]]:
    """A top-level module's Python files, as (place in it, file), sorted."""
    found = importlib.util.find_spec(root)
    if found is None:
        return []
    if found.submodule_search_locations is None:
        return [(root, Path(found.origin))] if found.origin else []
    folders = [Path(folder) for folder in found.submodule_search_locations]
    return sorted(
        (f"{root}/{path.relative_to(folder).as_posix()}", path)
        for folder in folders
        for path in folder.rglob("*.py")
    )


def load_all(group: str) -> Mapping[str, Any]:
    """Everything of a group by name; classes come as instances."""
    loaded = {name: load(group, name) for name in names(group)}
    return {name: item() if isinstance(item, type) else item for name, item in loaded.items()}

"""Withdraws consents inside the steward's zone, in a process of its own.

Opens the dataset once to see that every name is one of its units, then writes the tombstones
durably. What comes back are marks and times; of a name that fits nothing, the line on which it
stood. No name may be stored, printed or sent back.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from primum.domain.budget.layout import layout_from_json
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, NotFound, Refused, Tampered, Unavailable
from primum.domain.quantities import PrivacyUnit
from primum_pipelines.attacks.shadow_cache import forget_account
from primum_pipelines.datasets import consent
from primum_pipelines.datasets.consent import Registry, Tombstone

if TYPE_CHECKING:
    from primum_pipelines.datasets.table import UnitTable

UNITS_MAX = 10_000  # Names in one call; more is a cohort, which a new registration serves better.
NAME_LENGTH_MAX = 200
_MARK_BYTES = 16
_OWNER_ONLY = 0o600
_REFUSALS = (InvalidValue, NotFound, Refused, Tampered, Unavailable)


def withdraw(payload: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """Write a tombstone for each unit, all or none.

    Args:
        payload: ``{"account", "at", "dataDirs", "names", "options", "unit", "uri", "zoneDir"}``,
            and ``layout`` where the dataset is divided. The names as in the dataset, with or
            without the privacy unit before them; a blank one is passed over.

    Returns:
        ``{"named": [{"mark", "at", "block"}], "tombstones": [...]}``: those of the names, in their
        order, the earlier one of a unit that had one; and every one of the account, oldest first.
        Or ``{"error": {"kind", "message"}}``.
    """
    try:
        registry, named = _withdraw(payload)
    except _REFUSALS as error:
        return {"error": {"kind": type(error).__name__, "message": str(error)}}
    forget_account(str(payload["zoneDir"]), str(payload["account"]))  # Shadows had these rows.
    return {"named": _shown(named), "tombstones": _shown(registry.tombstones)}


def withdrawn(payload: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """The marks of an account; opens no dataset.

    Args:
        payload: ``{"account", "zoneDir"}``.

    Returns:
        ``{"tombstones": [{"mark", "at", "block"}]}``, oldest first; or an error as ``withdraw``.
    """
    try:
        found = consent.registries(str(payload["zoneDir"]))
    except _REFUSALS as error:
        return {"error": {"kind": type(error).__name__, "message": str(error)}}
    own = [item for item in found if item.account_id == payload["account"]]
    return {"tombstones": _shown([item for registry in own for item in registry.tombstones])}


def _shown(tombstones: Sequence[Tombstone]) -> list[JSON]:
    return [{"mark": item.mark, "at": item.at, "block": item.block} for item in tombstones]


def _withdraw(payload: Mapping[str, JSON]) -> tuple[Registry, list[Tombstone]]:
    from primum_pipelines.datasets.driver import driver_for, load_blocks
    from primum_pipelines.datasets.registration import content_digest

    names, account = _names(payload["names"]), str(payload["account"])
    uri, unit = str(payload["uri"]), PrivacyUnit(str(payload["unit"]))
    given = payload.get("options")
    options = given if isinstance(given, Mapping) else {}
    folders = payload.get("dataDirs")
    places = [str(item) for item in folders] if isinstance(folders, list | tuple) else []
    driver, divided = driver_for(uri), payload.get("layout")
    if isinstance(divided, Mapping):
        layout = layout_from_json(divided)
        table = load_blocks(uri, unit, options, places, layout=layout, wanted=None)
        naming = consent.naming_of(driver, uri, options, column=layout.column)
    else:
        table = driver.load(uri, unit, options, places)
        naming = consent.naming_of(driver, uri, options, column="")
    with _locked(Path(str(payload["zoneDir"])) / consent.FOLDER) as folder:
        key = _key(folder)
        registry = _registry(folder, account, naming=naming)
        consent.require_naming(registry, naming)
        consent.require_order(registry, table)
        registry = replace(
            registry,
            uris=_with(registry.uris, uri),
            digests=_with(registry.digests, content_digest(table)),
        )
        registry, written = _buried(
            registry, names, key=key, table=table, unit=unit, at=str(payload["at"])
        )
        if consent.by_place(naming):
            registry = replace(registry, order=_order(registry, table, key=key))
        _replace(folder / f"{account}{consent.SUFFIX}", consent.sealed(registry, key=key))
    return registry, written


def _order(registry: Registry, table: UnitTable, *, key: bytes) -> dict[str, str]:
    """The order of every block that has a tombstone."""
    gone = consent.withdrawn_rows(table, [registry], key=key)
    blocks = {""} if table.blocks is None else {str(block) for block in table.blocks[gone]}
    found = {}
    for block in sorted(blocks):
        rows = consent.block_rows(table, block)
        if rows is not None:
            found[block] = consent.order_digest(table.only(rows))
    return found


def _buried(
    registry: Registry,
    names: Sequence[tuple[int, str]],
    *,
    key: bytes,
    table: UnitTable,
    unit: PrivacyUnit,
    at: str,
) -> tuple[Registry, list[Tombstone]]:
    blocks = [""] * len(table.units) if table.blocks is None else table.blocks
    present = {str(name): str(block) for name, block in zip(table.units, blocks, strict=True)}
    known = {item.unit: item for item in registry.tombstones}
    before, written = set(known), []
    for line, name in names:
        # A name as its column holds it, or as the driver makes it of that.
        said = (name, name.strip())
        forms = dict.fromkeys((*said, *(f"{unit.value.lower()}-{item}" for item in said)))
        digests = {form: consent.unit_digest(key, registry.account_id, form) for form in forms}
        fitting = [form for form in forms if form in present or digests[form] in before]
        if len(fitting) != 1:
            raise InvalidValue(
                f"unit file line {line}",
                "must name one unit of the dataset",
                "a name of two units" if fitting else "a name that it does not have",
                "Nobody was withdrawn. Put the line right and give the whole file again.",
            )
        digest = digests[fitting[0]]
        if digest not in known:
            block = present[fitting[0]]
            known[digest] = Tombstone(digest, secrets.token_hex(_MARK_BYTES), at, block)
        written.append(known[digest])
    return replace(registry, tombstones=tuple(known.values())), written


def _names(given: JSON) -> list[tuple[int, str]]:
    """Names with their lines."""
    lines = [str(item) for item in given] if isinstance(given, list | tuple) else []
    names = [(number, name) for number, name in enumerate(lines, start=1) if name.strip()]
    if not 1 <= len(names) <= UNITS_MAX:
        raise InvalidValue("unit file", f"must name 1 to {UNITS_MAX} units", len(names))
    for line, name in names:
        if len(name) > NAME_LENGTH_MAX:
            rule = f"must have at most {NAME_LENGTH_MAX} characters"
            raise InvalidValue(f"unit file line {line}", rule, len(name))
    return names


def _with(kept: tuple[str, ...], item: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*kept, item)))


def _registry(folder: Path, account_id: str, *, naming: str) -> Registry:
    """The account's registry; none is written while any of the zone cannot be trusted."""
    for registry in consent.registries(str(folder.parent)):
        if registry.account_id == account_id:
            return registry
    return Registry(account_id, uris=(), digests=(), naming=naming, order={})


def _key(folder: Path) -> bytes:
    """The zone's key; made with the first withdrawal, and never again while registries exist."""
    path = folder / consent.KEY_FILE
    if not path.exists() and not any(folder.glob(f"*{consent.SUFFIX}")):
        _replace(path, secrets.token_bytes(consent.KEY_BYTES))
    return consent.read_key(str(folder.parent))


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, durably, for its owner alone."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """The registries' folder, for one writer at a time.

    Raises:
        Unavailable: If it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, _OWNER_ONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(lock)
    except OSError as error:
        said = error.strerror or "an error"
        raise Unavailable(f"withdrawn consents cannot be written: {said}") from None

"""Withdrawn consents in the steward's zone: whose rows nobody opens any more.

One file per account in the folder ``consent`` of the zone. It holds a keyed digest per unit, never
a name; the key lies beside it and never leaves the zone. Whatever opens private data asks here
before anybody else sees a row. Nothing here may name, count or log who was withdrawn, and nothing
may open while a file cannot be trusted. Writing one is ``withdrawal``'s work.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import Refused, Tampered

if TYPE_CHECKING:
    import numpy as np

    from primum_pipelines.datasets.driver import DatasetDriver
    from primum_pipelines.datasets.table import UnitTable

FOLDER = "consent"
KEY_FILE = "key"
KEY_BYTES = 32
SUFFIX = ".json"
VERSION = 1
BY_ROW = "row"
_SEPARATOR = "\x1f"
_DOMAIN_UNIT = "primum-consent-unit-v1"
_DOMAIN_FILE = b"primum-consent-file-v1\x1f"
_REMEDY = "Nothing opens until a steward has restored the folder consent of the zone."


@dataclass(frozen=True, slots=True)
class Tombstone:
    """One withdrawn unit.

    Args:
        unit: HMAC-SHA256 of account and unit name under the zone's key, 64 hex digits.
        mark: The opaque random id that stands for it in the ledger.
        at: RFC 3339 time in UTC at which it was written.
        block: The block that the unit was in, or empty where there is none; stewards' business.
    """

    unit: str
    mark: str
    at: str
    block: str = ""

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {"unit": self.unit, "mark": self.mark, "at": self.at, "block": self.block}


@dataclass(frozen=True, slots=True)
class Registry:
    """The withdrawn units of one account.

    Args:
        account_id: The ledger's account.
        uris: Addresses that the dataset had when units were withdrawn.
        digests: Content digests that it had then.
        naming: What named the units then, see ``naming_of``.
        order: Per block with a tombstone, the digest of its rows in their order, where a row's
            place names its unit; else empty. A dataset that is not divided is one block, ``""``.
        tombstones: In the order in which they were written.
    """

    account_id: str
    uris: tuple[str, ...]
    digests: tuple[str, ...]
    naming: str
    order: Mapping[str, str]
    tombstones: tuple[Tombstone, ...] = ()

    def to_json(self) -> dict[str, JSON]:
        """Canonical form, without its code of authenticity."""
        return {
            "version": VERSION,
            "account": self.account_id,
            "uris": list(self.uris),
            "digests": list(self.digests),
            "naming": self.naming,
            "order": dict(self.order),
            "tombstones": [item.to_json() for item in self.tombstones],
        }


@dataclass(frozen=True, slots=True)
class Opened:
    """Which dataset is being opened, for which account.

    Args:
        zone_dir: The steward's zone; empty where the process was told of none.
        uri: The dataset's address.
        naming: What names its units, see ``naming_of``.
        account_id: The account that pays; empty while a dataset is being registered.
        withdrawn: How many withdrawals the ledger holds on that account.
        digest: Content digest, where it is known; registering meets a moved copy by it.
    """

    zone_dir: str
    uri: str
    naming: str
    account_id: str = ""
    withdrawn: int = 0
    digest: str = ""


def opened(claims: Mapping[str, JSON], zone_dir: str, *, naming: str) -> Opened:
    """What a data token opens, as far as consents are concerned.

    Raises:
        Refused: If there is a zone and the token does not say what the zone must know.
    """
    withdrawn, account = claims.get("withdrawn"), claims.get("accountId")
    if zone_dir and not (type(withdrawn) is int and isinstance(account, str) and account):
        raise Refused("data token must state its account and its withdrawn consents; found none.")
    return Opened(
        zone_dir=zone_dir,
        uri=str(claims["uri"]),
        naming=naming,
        account_id=str(account or ""),
        withdrawn=withdrawn if type(withdrawn) is int else 0,
    )


def standing(table: UnitTable, source: Opened) -> UnitTable:
    """The rows of a table whose units have not withdrawn.

    A unit that is missing has no effect on a mechanism whose sampling rate and noise were planned
    from the declared public size: each unit that is there is sampled with the planned rate, and
    what one adds is bounded as before. The guarantee is the planned one, for everybody else and
    for the one who left.

    Guarantees:
        No row of a withdrawn unit is in the result. Nothing is returned where that cannot be known.

    Args:
        table: As the driver loaded it.
        source: Which dataset it is.

    Raises:
        Tampered: If a file of withdrawals is damaged, lost or older than the ledger.
        Refused: If units are named in another way than when they were withdrawn, or none is left.
    """
    found = [item for item in registries(source.zone_dir) if _concerns(item, source)]
    own = sum(len(i.tombstones) for i in found if i.account_id == source.account_id)
    if own < source.withdrawn:
        what = "fewer than the ledger" if source.zone_dir else "no zone to look in"
        raise Tampered(f"withdrawn consents must be known to the zone; found {what}. {_REMEDY}")
    if not found:
        return table
    keep = ~withdrawn_rows(table, found, key=read_key(source.zone_dir))
    if not keep.any():
        raise Refused("dataset must have a unit whose consent stands; found none.")
    return table.only(keep)


def withdrawn_rows(table: UnitTable, found: Iterable[Registry], *, key: bytes) -> np.ndarray:
    """Mask of the rows whose unit has a tombstone, ``(n,)``.

    Raises:
        Refused: If a registry named units by their places and the rows have changed since.
    """
    import numpy as np

    mask = np.zeros(len(table.units), dtype=bool)
    for registry in found:
        require_order(registry, table)
        known = {item.unit for item in registry.tombstones}
        account = registry.account_id
        digests = [unit_digest(key, account, str(name)) for name in table.units]
        mask |= np.array([digest in known for digest in digests], dtype=bool)
    return mask


def require_naming(registry: Registry, naming: str) -> None:
    """Refuse a dataset whose units are named in another way than when some were withdrawn.

    Raises:
        Refused: If they are.
    """
    if registry.naming != naming:
        raise Refused(
            f"dataset units must be named by {registry.naming}, as when consent was withdrawn; "
            f"found {naming}. Declare dataset.options as they were."
        )


def require_order(registry: Registry, table: UnitTable) -> None:
    """Refuse rows that have moved where a row's place is what names its unit.

    Raises:
        Refused: If the file has changed since a unit was withdrawn.
    """
    for block, digest in registry.order.items():
        rows = block_rows(table, block)
        if rows is not None and digest != order_digest(table.only(rows)):
            raise Refused(
                "dataset must be unchanged while a row's place names a withdrawn unit; found other "
                "rows or another order. Restore the file. A unitColumn would let rows come and go."
            )


def block_rows(table: UnitTable, block: str) -> np.ndarray | None:
    """Mask of a block's rows, ``(n,)``; ``None`` where the table was opened without that block."""
    import numpy as np

    if table.blocks is None:
        return np.ones(len(table.units), dtype=bool) if not block else None
    rows = table.blocks == block
    return rows if rows.any() else None


def naming_of(driver: DatasetDriver, uri: str, options: Mapping[str, JSON], *, column: str) -> str:
    """What names the units of a dataset: ``column NAME``, ``content``, or rows' places.

    Args:
        driver: Its driver.
        uri: Where it lies.
        options: Its driver options.
        column: The column that divides it into blocks, or empty. Then only blocks may be opened.
    """
    naming = str(driver.describe(uri, options).get("unitNames", BY_ROW))
    return f"{BY_ROW} divided by {column}" if column and naming == BY_ROW else naming


def by_place(naming: str) -> bool:
    """Whether a name means whichever row is in its place."""
    return naming.split(" ", 1)[0] == BY_ROW


def order_digest(table: UnitTable) -> str:
    """Digest of units, features and labels row by row, as ``sha256:<64 hex digits>``."""
    import numpy as np

    total = hashlib.sha256(b"primum-order-v1\x1f")
    total.update(_SEPARATOR.join(str(name) for name in table.units).encode())
    total.update(np.ascontiguousarray(table.features, dtype="<f4").tobytes())
    total.update(np.ascontiguousarray(table.labels, dtype="<i8").tobytes())
    return "sha256:" + total.hexdigest()


def unit_digest(key: bytes, account_id: str, name: str) -> str:
    """What a registry holds instead of a unit's name."""
    text = _SEPARATOR.join((_DOMAIN_UNIT, account_id, name))
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def registries(zone_dir: str) -> tuple[Registry, ...]:
    """Every registry of a zone; none where nobody ever withdrew.

    Raises:
        Tampered: If one cannot be read, or is not as it was written.
    """
    if not zone_dir:
        return ()
    folder = Path(zone_dir) / FOLDER
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise _unreadable(type(error).__name__) from None
    return tuple(read(path, key=read_key(zone_dir)) for path in files)


def read_key(zone_dir: str) -> bytes:
    """The zone's key for withdrawals.

    Raises:
        Tampered: If it is lost, cannot be read, or is none.
    """
    try:
        key = (Path(zone_dir) / FOLDER / KEY_FILE).read_bytes()
    except OSError as error:
        raise _unreadable(f"no key ({type(error).__name__})") from None
    if len(key) != KEY_BYTES:
        raise _unreadable("a damaged key")
    return key


def read(path: Path, *, key: bytes) -> Registry:
    """One registry.

    Raises:
        Tampered: If it cannot be read, or is not as it was written under this key.
    """
    try:
        value = json.loads(path.read_bytes())
        code = value.pop("code")
        if value["version"] != VERSION or not hmac.compare_digest(code, _code(key, value)):
            raise _unreadable("a file that was not written so")
        registry = Registry(
            account_id=str(value["account"]),
            uris=tuple(str(item) for item in value["uris"]),
            digests=tuple(str(item) for item in value["digests"]),
            naming=str(value["naming"]),
            order={str(block): str(digest) for block, digest in value["order"].items()},
            tombstones=tuple(
                Tombstone(
                    unit=str(item["unit"]),
                    mark=str(item["mark"]),
                    at=str(item["at"]),
                    block=str(item["block"]),
                )
                for item in value["tombstones"]
            ),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(f"a damaged file ({type(error).__name__})") from None
    if path.stem != registry.account_id:
        raise _unreadable("the file of another account")
    return registry


def sealed(registry: Registry, *, key: bytes) -> bytes:
    """A registry as it is written, with its code of authenticity under the zone's key."""
    value = registry.to_json()
    return canonical_json(value | {"code": _code(key, value)}) + b"\n"


def _code(key: bytes, value: Mapping[str, JSON]) -> str:
    return hmac.new(key, _DOMAIN_FILE + canonical_json(value), "sha256").hexdigest()


def _concerns(registry: Registry, source: Opened) -> bool:
    """Whether a registry speaks of this dataset: by account, by address, or by content.

    That of another account on the same data does where it names units alike.

    Raises:
        Refused: If the account's own registry names units in another way.
    """
    if source.account_id and registry.account_id == source.account_id:
        require_naming(registry, source.naming)
        return True
    same = source.uri in registry.uris or source.digest in registry.digests
    return same and registry.naming == source.naming


def _unreadable(found: str) -> Tampered:
    return Tampered(f"withdrawn consents must be readable; found {found}. {_REMEDY}")

"""The one door to private data inside a worker: no valid data token, no table.

The token is verified before the file is even located. What comes out of here must stay in the
worker's memory; it is never serialized, logged or returned.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from primum import signing
from primum.domain.budget.layout import BlockLayout, layout_from_json
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, Refused, Tampered
from primum.domain.quantities import PrivacyUnit
from primum.domain.study.spec import DataRole
from primum.domain.study.steps import WorkRequest
from primum_pipelines.datasets import consent
from primum_pipelines.datasets.driver import (
    driver_for,
    examples_max,
    is_published,
    load_blocks,
    parse_uri,
)

if TYPE_CHECKING:
    from primum_pipelines.datasets.table import UnitTable

PUBLIC_INPUTS = "publicInputs"  # Where a plan's parameters name the public data that is read.
# A token has about 1 kB, and 3.6 MB with every block of the largest layout: what was paid for must
# open. A hostile one must not fill memory.
_TOKEN_LENGTH_MAX = 4 * 2**20


def open_private(request: WorkRequest, access: str) -> UnitTable:
    """The table that a data token opens.

    Guarantees:
        Nothing is read unless the token carries the platform's signature, names this access and
        this Study generation, covers the very dataset and the very blocks that the step was told
        of, and has not expired. Of a divided dataset only rows of the token's blocks are read. No
        row of a unit whose consent was withdrawn comes out, and of no unit more rows than the
        dataset declares. The rows of a unit lie side by side, on one side of the split.

    Args:
        request: The step's request with its tokens.
        access: Name of the access, as declared in the plan.

    Raises:
        Refused: If the token is absent, invalid, of another scope, or expired.
        Tampered: If it cannot be known whose consent was withdrawn.
        NotFound: If the dataset's file is nowhere.
        InvalidValue: If the dataset cannot be opened as declared.
    """
    claims = token_claims(request, access)
    _require_unexpired(str(claims["expires"]), access)
    given = claims["options"]
    uri, unit = str(claims["uri"]), PrivacyUnit(str(claims["unit"]))
    options = given if isinstance(given, Mapping) else {}
    blocks, column = token_blocks(claims), ""
    if blocks is None:
        table = driver_for(uri).load(uri, unit, options, request.data_dirs)
    else:
        layout, wanted = blocks
        column = layout.column
        table = load_blocks(uri, unit, options, request.data_dirs, layout=layout, wanted=wanted)
    naming = consent.naming_of(driver_for(uri), uri, options, column=column)
    standing = consent.standing(table, consent.opened(claims, request.zone_dir, naming=naming))
    from primum_pipelines.datasets.units import by_unit

    return by_unit(standing, examples_max=examples_max(options))


@dataclass(frozen=True, slots=True, repr=False)
class OtherInput:
    """An input of a Study that nobody's privacy is spent on.

    Args:
        role: Public or Synthetic.
        name: Address of public data, name of the Release of synthetic data.
        table: Its examples; units mean nothing, and are not bounded.
    """

    role: DataRole
    name: str
    table: UnitTable


def open_others(request: WorkRequest) -> tuple[OtherInput, ...]:
    """The public and synthetic inputs of a Study, public ones first, each in the plan's order.

    Guarantees:
        Public data is what the plan names, which the planner holds to places without private data.
        Synthetic data has the digest that its Release was certified with.

    Args:
        request: The step's request; no token is needed.

    Raises:
        NotFound: If something is nowhere.
        Tampered: If synthetic data is not what was released.
        InvalidValue: If something cannot be opened as declared.
    """
    parameters = _mapping(_mapping(request.context["plan"]).get("parameters", {}))
    named = parameters.get(PUBLIC_INPUTS, ())
    found = []
    for item in named if isinstance(named, list | tuple) else ():
        wanted = _mapping(item)
        table = _public(str(wanted["uri"]), _mapping(wanted["options"]), request.data_dirs)
        found.append(OtherInput(DataRole.PUBLIC, str(wanted["uri"]), table))
    released = _mapping(request.context.get("synthetic", {}))
    if released:
        # Imported only where it is used: the archive of synthetic data needs numpy.
        from primum_pipelines import artifacts
        from primum_pipelines.synthesis import archive

        for name in sorted(released):
            reference = _mapping(released[name])
            data = artifacts.fetch(str(reference["uri"]), digest=str(reference["digest"]))
            found.append(OtherInput(DataRole.SYNTHETIC, name, archive.from_bytes(data)))
    return tuple(found)


def open_published(request: WorkRequest, uri: str) -> UnitTable:
    """A public dataset that an audit names: what an attacker may learn such records from.

    Guarantees:
        It is a published set that its driver recognizes, or a Public input of the plan, and has the
        address of none of the Study's protected datasets.

    Args:
        request: The step's request; no token is needed.
        uri: Its address.

    Raises:
        InvalidValue: If it is neither, or is a dataset of the Study.
        NotFound: If it is nowhere.
    """
    own = _mapping(request.context["datasets"])
    address = parse_uri(uri)
    if any(parse_uri(str(_mapping(item)["uri"])) == address for item in own.values()):
        rule = "must not be a dataset that the Study protects"
        raise InvalidValue("spec.audits.parameters.prior", rule, uri)
    parameters = _mapping(_mapping(request.context["plan"]).get("parameters", {}))
    named = parameters.get(PUBLIC_INPUTS, ())
    for item in named if isinstance(named, list | tuple) else ():
        if _mapping(item)["uri"] == uri:
            return _public(uri, _mapping(_mapping(item)["options"]), request.data_dirs)
    if not is_published(uri):
        rule = "must be Synthetic, a published set, or a Public input of the Study"
        raise InvalidValue("spec.audits.parameters.prior", rule, uri)
    return _public(uri, {}, request.data_dirs)


def _public(uri: str, options: Mapping[str, JSON], data_dirs: Sequence[str]) -> UnitTable:
    """Public data, under whichever unit its driver can tell apart."""
    driver = driver_for(uri)
    units = driver.describe(uri, options).get("units", [unit.value for unit in PrivacyUnit])
    if not isinstance(units, list | tuple) or not units:
        raise InvalidValue(f"dataset driver {driver.scheme}", "must name units", "none")
    return driver.load(uri, PrivacyUnit(str(units[0])), options, data_dirs)


def token_claims(request: WorkRequest, access: str) -> Mapping[str, JSON]:
    """The verified content of the token for an access: what a receipt cites as its token id.

    It may have expired since it opened the data: a training may take longer than that.

    Raises:
        Refused: If the token does not cover this access.
    """
    text = request.tokens.get(access)
    if not text:
        raise Refused(f"access {access} must have a data token; found none.")
    claims = _verified(text, request.public_key)
    for name in ("id", "access", "budget", "uri", "unit", "studyUid", "generation", "expires"):
        if name not in claims:
            raise Refused(f"data token for {access} must state {name}; found none.")
    study = _mapping(request.context["study"])
    expected: dict[str, object] = {
        "access": access,
        "budget": _declared_budget(request, access),
        "studyUid": study["uid"],
        "generation": study["generation"],
    }
    dataset = _mapping(_mapping(request.context["datasets"])[str(expected["budget"])])
    expected |= {"uri": dataset["uri"], "unit": dataset["unit"]}
    for name, value in expected.items():
        if str(claims[name]) != str(value):
            raise Refused(f"data token's {name} must be {value}; found {claims[name]}.")
    _require_same_blocks(request, claims, dataset)
    return claims


def token_blocks(claims: Mapping[str, JSON]) -> tuple[BlockLayout, frozenset[str]] | None:
    """How a token's dataset is divided, and the blocks it opens; ``None`` without blocks.

    Raises:
        Refused: If a layout comes without blocks, blocks without a layout, or either is damaged.
    """
    layout, names = claims.get("layout", {}), _block_names(claims.get("blocks", []))
    if not isinstance(layout, Mapping):
        raise Refused("data token's layout must be an object; found something else.")
    if bool(layout) != bool(names):
        found = "no blocks" if layout else "blocks without a layout"
        raise Refused(f"data token for a divided dataset must state its blocks; found {found}.")
    if not layout:
        return None
    try:
        return layout_from_json(layout), frozenset(names)
    except (InvalidValue, KeyError, ValueError) as error:
        kind = type(error).__name__
        raise Refused(f"data token's layout must be one; found {kind}.") from None


def _require_same_blocks(
    request: WorkRequest, claims: Mapping[str, JSON], dataset: Mapping[str, JSON]
) -> None:
    """The token, what the step was told and the plan must name the same blocks of one layout."""
    plan = _mapping(request.context["plan"])
    planned = _mapping(plan.get("blocks", {})).get(str(claims["budget"]), [])
    named = _block_names(claims.get("blocks", []))
    told = {"context": dataset.get("blocks", []), "plan": planned}
    for where, blocks in told.items():
        if _block_names(blocks) != named:
            raise Refused(f"data token's blocks must be those of the step's {where}; found others.")
    if claims.get("layout", {}) != dataset.get("layout", {}):
        raise Refused("data token's layout must be that of the step's context; found another.")
    token_blocks(claims)


def _block_names(value: JSON) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise Refused("blocks must be a list of names; found something else.")
    if not all(isinstance(name, str) and name for name in value):
        raise Refused("blocks must be a list of names; found something else in it.")
    return tuple(sorted(str(name) for name in value))


def _declared_budget(request: WorkRequest, access: str) -> str:
    plan = _mapping(request.context["plan"])
    accesses = plan["accesses"]
    if isinstance(accesses, list | tuple):
        for item in accesses:
            if isinstance(item, Mapping) and item["name"] == access:
                return str(item["budget"])
    raise Refused(f"access {access} must be declared in the plan; found no such access.")


def _verified(text: str, public_key: str) -> Mapping[str, JSON]:
    if len(text) > _TOKEN_LENGTH_MAX:
        raise Refused(f"data token must have at most {_TOKEN_LENGTH_MAX} characters; found more.")
    try:
        padded = text + "=" * (-len(text) % 4)
        envelope = json.loads(base64.urlsafe_b64decode(padded.encode()))
        payload = signing.verify(public_key, envelope, signing.DATA_TOKEN_TYPE)
        claims = json.loads(payload)
    except (Tampered, InvalidValue, binascii.Error, UnicodeError, ValueError, TypeError) as error:
        kind = type(error).__name__
        raise Refused(f"data token must be signed by the platform; found {kind}.") from None
    if not isinstance(claims, dict):
        raise Refused("data token must hold an object; found something else.")
    return claims


def _require_unexpired(expires: str, access: str) -> None:
    try:
        limit = datetime.fromisoformat(expires)
    except ValueError:
        raise Refused(f"data token for {access} must state its expiry as RFC 3339.") from None
    if limit.tzinfo is None or datetime.now(UTC) >= limit:
        raise Refused(f"data token for {access} must not have expired; found {expires}.")


def _mapping(value: object) -> Mapping[str, JSON]:
    if not isinstance(value, Mapping):
        raise Refused("step context must be complete; found a part missing.")
    return value

"""Commands on accounts: open, find, lower, divide, configure, note, freeze, and thaw.

An account is never reset: it is found by what its data is, and its guarantee only ever falls.
Nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from primum.domain import names
from primum.domain.accounting import policies
from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.charges import Charge
from primum.domain.budget import book as books
from primum.domain.budget import decisions
from primum.domain.budget.book import OPEN_STATES, Account, Book, Draft
from primum.domain.budget.decisions import Decision
from primum.domain.budget.entries import (
    AccountTerms,
    EntryKind,
    ReservationView,
    Result,
    ResultCode,
)
from primum.domain.budget.layout import BLOCKS_MAX
from primum.domain.budget.rules import Rules
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue


def open_account(book: Book, terms: AccountTerms) -> Decision:
    """Open an account, or find the one of the same data, unit and neighbors.

    Guarantees:
        Recreating a budget never resets what was spent: an account is found by the digest of its
        data first (content is what was spent on), then by its uri. A guarantee is only ever
        lowered.

    Args:
        book: The ledger.
        terms: What to promise.

    Returns:
        The decision; its ``account_id`` is empty when refused.

    Raises:
        InvalidValue: If the terms break a rule.
    """
    _check_terms(terms)
    policy = policies.policy_named(terms.policy)
    account, others = _account_of_data(book, terms)
    if account is None:
        account_id = names.derived_uuid(
            "account", terms.dataset_uri, terms.unit.value, terms.neighbors.value
        )
        recorded = policy.to_json()
        payload: dict[str, JSON] = {"asked": books.terms_json(terms), "policy": recorded}
        draft = Draft(account_id, EntryKind.OPENED, "", "open", payload)
        return Decision(decisions.accepted(others), (draft,), account_id=account_id)
    refusal = _refused_terms(account, terms)
    if refusal:
        return Decision(refusal)
    drafts = _moved_terms(account, terms)
    if not drafts:
        return Decision(decisions.repeated(account.opened), account_id=account.account_id)
    return Decision(decisions.accepted(others), drafts, account_id=account.account_id)


def _check_terms(terms: AccountTerms) -> None:
    decisions.check_name("dataset.uri", terms.dataset_uri, length_max=decisions.URI_LENGTH_MAX)
    if terms.dataset_digest:
        decisions.check_name("dataset.digest", terms.dataset_digest)
    if not isinstance(terms.units, int) or isinstance(terms.units, bool) or terms.units < 1:
        raise InvalidValue("dataset.units", "must be a whole number from 1", terms.units)
    Guarantee(terms.epsilon, terms.delta)


def _account_of_data(book: Book, terms: AccountTerms) -> tuple[Account | None, str]:
    """The account, and a remark where the same data is also accounted for in another unit."""
    remark = ""
    for identity in books.identities_of(terms):
        for account in book.accounts_of(identity):
            theirs = account.terms
            if (theirs.unit, theirs.neighbors) == (terms.unit, terms.neighbors):
                return account, ""
            remark = (
                f"The same data has an account in unit {theirs.unit.value} under "
                f"{theirs.neighbors.value}; units are never added up, so each Study must be "
                "charged to the account that protects its people."
            )
    return None, remark


def _refused_terms(account: Account, terms: AccountTerms) -> Result | None:
    before = account.terms
    for field, old, new in (
        ("epsilon", before.epsilon, terms.epsilon),
        ("delta", before.delta, terms.delta),
    ):
        if new > old:
            return Result(
                ResultCode.GUARANTEE_RAISED,
                f"guarantee.{field} must be at most {old}, which the people in the data were "
                f"promised; found {new}.",
            )
    if terms.policy != before.policy:
        return Result(
            ResultCode.POLICY_CHANGED,
            f"accounting must stay {before.policy}, under which the account was opened; "
            f"found {terms.policy}.",
        )
    if terms.layout != before.layout:
        return Result(
            ResultCode.LAYOUT_CHANGED,
            "blocks must be divided as they were when the account was opened "
            f"({before.layout or 'not at all'}); found {terms.layout or 'no division'}.",
        )
    return None


def _moved_terms(account: Account, terms: AccountTerms) -> tuple[Draft, ...]:
    before, drafts, count = account.terms, [], account.entries
    identity = (terms.dataset_uri, terms.dataset_digest, terms.units)
    if identity != (before.dataset_uri, before.dataset_digest, before.units):
        count += 1
        asked: dict[str, JSON] = {
            "uri": terms.dataset_uri,
            "digest": terms.dataset_digest,
            "units": terms.units,
        }
        key = f"identify/{count}"
        drafts.append(Draft(account.account_id, EntryKind.IDENTIFIED, "", key, {"asked": asked}))
    if (terms.epsilon, terms.delta) != (before.epsilon, before.delta):
        count += 1
        asked = {"epsilon": str(terms.epsilon), "delta": str(terms.delta)}
        key = f"lower/{count}"
        drafts.append(Draft(account.account_id, EntryKind.LOWERED, "", key, {"asked": asked}))
    return tuple(drafts)


def configure(
    book: Book, account_id: str, rules: Rules, *, reservations: Sequence[ReservationView], key: str
) -> Decision:
    """Share an account's room out by other rules.

    Guarantees:
        The guarantee stays what it is, and nothing that was unlocked is taken back. New quotas
        count what was reserved and charged before them too.

    Args:
        book: The ledger.
        account_id: The account.
        rules: How its room is shared out from here on.
        reservations: Every reservation of the account, of the same moment as the book.
        key: Idempotency key.

    Returns:
        The decision; ``REPEATED`` where the rules are these already.
    """
    decisions.check_name("key", key)
    account = book.account(account_id)
    if account is None:
        return Decision(decisions.no_account(account_id))
    if account.sharing == rules:
        return Decision(decisions.repeated(account.opened))
    asked: dict[str, JSON] = {"rules": rules.to_json()}
    payload: dict[str, JSON] = {"asked": asked, "counted": _counted(account, rules, reservations)}
    # Rules may come back, so that the same key would name an older change: the count tells apart.
    full_key = f"configure/{account.entries}/{key}"
    draft = Draft(account_id, EntryKind.CONFIGURED, "", full_key, payload)
    return Decision(Result(ResultCode.ACCEPTED), (draft,))


def _counted(account: Account, rules: Rules, reservations: Sequence[ReservationView]) -> list[JSON]:
    """What each quota has to count of what came before it."""
    counts: dict[tuple[str, str], list[Charge]] = {}
    nothing = policies.zero(account.filter)
    for item in reservations:
        if item.state in OPEN_STATES:
            moved = item.charge, nothing
        elif item.charged is not None:
            moved = nothing, item.charged
        else:
            continue
        for scope, _ in rules.quotas_of(item):
            for block in item.blocks:
                held = counts.setdefault((block, scope), [nothing, nothing])
                held[0], held[1] = held[0] + moved[0], held[1] + moved[1]
    return [
        {
            "block": block,
            "scope": scope,
            "added": account.blocks[block].added,
            "reserved": books.charge_json(reserved),
            "charged": books.charge_json(charged),
        }
        for (block, scope), (reserved, charged) in sorted(counts.items())
    ]


def divide(book: Book, account_id: str, blocks: Sequence[str]) -> Decision:
    """Add the blocks of a divided dataset that are not there yet; each begins with nothing spent.

    Args:
        book: The ledger.
        account_id: The account, opened with a layout.
        blocks: Names of blocks; those that exist are left as they are.

    Returns:
        The decision; ``REPEATED`` where all exist.

    Raises:
        InvalidValue: If a name breaks a rule, or the dataset is not divided.
    """
    account = book.account(account_id)
    if account is None:
        return Decision(decisions.no_account(account_id))
    if not account.terms.layout:
        raise InvalidValue("blocks", "must be of a dataset that is divided", account_id)
    if len(set(blocks) | set(account.blocks)) > BLOCKS_MAX:
        raise InvalidValue("blocks", f"must be at most {BLOCKS_MAX}", len(blocks))
    new = [
        decisions.check_name("blocks", name)
        for name in dict.fromkeys(blocks)
        if name not in account.blocks
    ]
    if not new:
        return Decision(decisions.repeated(account.opened))
    asked: dict[str, JSON] = {"blocks": list(new)}
    draft = Draft(account_id, EntryKind.DIVIDED, "", f"divide/{account.entries}", {"asked": asked})
    return Decision(Result(ResultCode.ACCEPTED), (draft,))


def withdraw_consent(book: Book, account_id: str, *, mark: str, key: str) -> Decision:
    """Record that a unit may not be read any more, by a mark that says nothing about it."""
    decisions.check_name("mark", mark)
    asked: dict[str, JSON] = {"mark": mark}
    return _noted(book, account_id, EntryKind.CONSENT_WITHDRAWN, f"consent/{key}", asked)


def inspect(book: Book, account_id: str, *, access: str, study_uid: str, key: str) -> Decision:
    """Record an access whose outputs stay in the steward's zone: costs nothing."""
    decisions.check_name("access", access)
    asked: dict[str, JSON] = {"access": access, "studyUid": decisions.prose(study_uid)}
    return _noted(book, account_id, EntryKind.INSPECTED, f"inspect/{key}", asked)


def freeze(book: Book, account_id: str, *, reason: str, key: str) -> Decision:
    """Refuse every new reservation and exposure on an account until thawed."""
    asked: dict[str, JSON] = {"reason": decisions.prose(reason) or "Frozen."}
    return _noted(book, account_id, EntryKind.FROZEN, f"freeze/{key}", asked)


def thaw(book: Book, account_id: str, *, reason: str, key: str) -> Decision:
    """Undo a freeze."""
    return _noted(
        book, account_id, EntryKind.THAWED, f"thaw/{key}", {"reason": decisions.prose(reason)}
    )


def _noted(
    book: Book, account_id: str, kind: EntryKind, key: str, asked: Mapping[str, JSON]
) -> Decision:
    decisions.check_name("key", key)
    if book.account(account_id) is None:
        return Decision(decisions.no_account(account_id))
    earlier = decisions.before(book, account_id, key, asked)
    if earlier:
        return Decision(earlier)
    return Decision(
        Result(ResultCode.ACCEPTED), (Draft(account_id, kind, "", key, {"asked": dict(asked)}),)
    )

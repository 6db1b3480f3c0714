"""Commands on accounts: open, find, lower, note, freeze, and thaw.

An account is never reset: it is found by what its data is, and its guarantee only ever falls.
Nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Mapping

from primum.domain import names
from primum.domain.accounting import policies
from primum.domain.accounting.accountant import Guarantee
from primum.domain.budget import book as books
from primum.domain.budget import decisions
from primum.domain.budget.book import Account, Book, Draft
from primum.domain.budget.decisions import Decision
from primum.domain.budget.entries import AccountTerms, EntryKind, Result, ResultCode
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

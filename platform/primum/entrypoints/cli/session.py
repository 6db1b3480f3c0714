"""What a command works with: settings, the home folder, the stores, and who asks."""

from __future__ import annotations

from typing import Any

from primum.domain.errors import InvalidValue, NotFound
from primum.domain.names import ResourceKey
from primum.entrypoints import settings
from primum.entrypoints.settings import Settings

# What people may type for each kind, as with kubectl.
KINDS = {
    "PrivacyBudget": ("privacybudget", "privacybudgets", "budget", "budgets", "pb"),
    "Study": ("study", "studies", "st"),
    "GatePolicy": ("gatepolicy", "gatepolicies", "policy", "policies", "gp"),
    "Release": ("release", "releases", "rel"),
    "AuditRun": ("auditrun", "auditruns", "ar"),
}


def kind_of(word: str) -> str:
    """The kind that a word stands for.

    Raises:
        InvalidValue: If it stands for none; lists the kinds.
    """
    for kind, words in KINDS.items():
        if word.lower() in words:
            return kind
    import difflib

    listed = [words[0] for words in KINDS.values()]
    close = difflib.get_close_matches(word.lower(), [w for ws in KINDS.values() for w in ws], n=1)
    remedy = f"Did you mean {close[0]}?" if close else ""
    raise InvalidValue("kind", f"must be one of {', '.join(listed)}", word, remedy)


def user_name() -> str:
    """Who runs this process, from the operating system's user database, as a label can say it.

    Never from the environment, which anybody may set. A name that no label can hold becomes the
    user's number.
    """
    import os
    import re

    number = os.getuid()
    try:
        import pwd

        name = pwd.getpwuid(number).pw_name
    except KeyError:
        name = ""
    proper = re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", name)
    return name if proper else f"uid-{number}"


def existing(*, create: bool = False) -> Settings:
    """The settings, with a prepared home folder.

    Raises:
        NotFound: If there is no home folder yet and the command is not one that creates it.
    """
    found = settings.from_environment()
    if create:
        from primum.entrypoints import bootstrap

        bootstrap.prepare_home(found)
    elif not (found.home / "primum.db").exists() and found.database_url.startswith("sqlite"):
        raise NotFound(f"no platform in {found.home}. Run `primum up`, or apply a resource first.")
    return found


def open_stores(found: Settings) -> Any:
    """Ledger, evidence and resources."""
    from primum.entrypoints import bootstrap

    return bootstrap.stores(found)


def open_resources(found: Settings) -> Any:
    """The declared resources alone."""
    from primum.entrypoints import bootstrap

    return bootstrap.resource_store(found)


def only_namespace(resources: Any, kind: str, name: str, namespace: str) -> ResourceKey:
    """The resource of that name: in the namespace given, else in the only one that has it.

    Args:
        resources: Where resources are kept.
        kind: Of the resource.
        name: Its name, or ``namespace/name`` as messages show it.
        namespace: Empty where any will do.

    Raises:
        NotFound: If there is none.
        InvalidValue: If several namespaces have one, or two are named.
    """
    if not name:
        raise InvalidValue("name", f"must be given, as in {kind.lower()}/NAME", "nothing")
    own, slash, rest = name.partition("/")
    if slash:
        if namespace not in ("", own):
            raise InvalidValue("--namespace", f"must be that of {name}", namespace)
        namespace, name = own, rest
    if namespace:
        key = ResourceKey(kind, namespace, name)
        if resources.get(key) is None:
            raise NotFound(f"{key} does not exist")
        return key
    matches: list[ResourceKey] = [
        item.key for item in resources.list(kind) if item.key.name == name
    ]
    if not matches:
        raise NotFound(f"{kind} {name} does not exist in any namespace")
    if len(matches) > 1:
        listed = ", ".join(key.namespace for key in matches)
        raise InvalidValue(
            "--namespace", f"must be given, because {name} exists in {listed}", "none"
        )
    return matches[0]

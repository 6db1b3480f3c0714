"""Who asks which cluster: kubectl's options, its namespace, and the way to the ledger API.

The API asks Kubernetes whose token it is sent, so only who has one can be told anything: a
certificate proves its user to the API server alone (docs/decisions/0024).
"""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import typer

from primum.domain.errors import InvalidValue, NotFound, Refused
from primum.domain.names import ResourceKey
from primum.entrypoints.cli.rendering import Output

if TYPE_CHECKING:
    from primum.adapters.kubectl import ClusterLine, Kubectl
    from primum.adapters.ledger_api.client import LedgerApiClient

PLATFORM_NAMESPACE = "primum-system"
ADDRESS = "primum-ledger-api"  # The ConfigMap in which the chart says where the API is.
TOKEN_SECONDS = 600
HELP = """Ask what Studies would cost, why they stand as they do, and what was spent and proved.

\b
Options of kubectl, anywhere:
  --kubeconfig, --context, --cluster, --user, --as, --as-group, --as-uid
  -n, --namespace NAME      default: the context's
\b
Ours, anywhere:
  --ledger URL              default: PRIMUM_LEDGER_URL, or what the platform's ConfigMap says
  --ledger-ca FILE          default: PRIMUM_LEDGER_CA
  --platform-namespace NAME default: primum-system
  --service-account NAMESPACE/NAME
                            ask the ledger as this account, whose tokens you may create
"""
_WHO = ("--kubeconfig", "--context", "--cluster", "--user")
_FOR_WHOM = ("--as", "--as-group", "--as-uid")
_OURS = ("--ledger", "--ledger-ca", "--platform-namespace", "--service-account", "--namespace")
_SHORT = {"-n": "--namespace"}
_PLURALS = {
    "PrivacyBudget": "privacybudgets",
    "Study": "studies",
    "GatePolicy": "gatepolicies",
    "Release": "releases",
    "AuditRun": "auditruns",
}

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table, json or yaml.")]


class Listing(enum.StrEnum):
    """How to print what has names, as kubectl's own ``-o`` does."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"

    @property
    def plain(self) -> Output:
        """The same for what has none."""
        return Output.TABLE if self is Listing.NAME else Output(self.value)


ListingOption = Annotated[
    Listing, typer.Option("--output", "-o", help="table, json, yaml or name.")
]


@dataclass(frozen=True, slots=True)
class Options:
    """What was said about who asks which cluster."""

    kubectl: tuple[str, ...] = ()
    impersonation: tuple[str, ...] = ()
    ours: dict[str, str] = field(default_factory=dict)


def options_of(arguments: Sequence[str]) -> tuple[Options, list[str]]:
    """Options of the connection, wherever they stand, and what is left.

    Raises:
        InvalidValue: If one of them has no value.
    """
    who: list[str] = []
    whom: list[str] = []
    ours: dict[str, str] = {}
    rest: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word == "--":
            rest += [word, *left]
            break
        name, equals, value = word.partition("=")
        if len(word) > len("-n") and word.startswith("-n") and not equals:
            name, value = "-n", word[2:]
        name = _SHORT.get(name, name)
        if name not in (*_WHO, *_FOR_WHOM, *_OURS):
            rest.append(word)
            continue
        if not value:
            if equals or not left or left[0].startswith("-"):
                raise InvalidValue(name, "must have a value", "none")
            value = left.pop(0)
        if name in _OURS:
            ours[name] = value
        else:
            (who if name in _WHO else whom).append(f"{name}={value}")
    return Options(tuple(who), tuple(whom), ours), rest


class Cluster:
    """One user at one cluster, and at its ledger API; connected when first asked.

    Args:
        options: What was said.
        closing: Ends what was begun.
    """

    def __init__(self, options: Options, closing: contextlib.ExitStack) -> None:
        self._options, self._closing = options, closing

    @cached_property
    def _kubectl(self) -> Kubectl:
        from primum.adapters.kubectl import Kubectl

        return Kubectl(self._options.kubectl, self._options.impersonation)

    @cached_property
    def _line(self) -> ClusterLine:
        return self._closing.enter_context(self._kubectl.connected())

    @cached_property
    def _config(self) -> dict[str, Any]:
        return self._kubectl.config()

    @cached_property
    def namespace(self) -> str:
        """The namespace that was asked for, or the context's."""
        return self._options.ours.get("--namespace") or str(self._config["namespace"])

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """A resource of the namespace.

        Raises:
            NotFound: If there is none.
        """
        return self._line.get(f"{self._collection(kind)}/{name}")

    def create(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """Declare a resource in the namespace."""
        return self._line.create(self._collection(kind), body)

    def merge(self, kind: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Change fields of a resource of the namespace.

        Raises:
            NotFound: If there is none.
        """
        return self._line.merge(f"{self._collection(kind)}/{name}", body)

    def _collection(self, kind: str) -> str:
        from primum.resources.metadata import GROUP, VERSION

        return f"/apis/{GROUP}/{VERSION}/namespaces/{self.namespace}/{_PLURALS[kind]}"

    def key(self, kind: str, name: str) -> ResourceKey:
        """The key of a resource of the namespace."""
        return ResourceKey(kind, self.namespace, name)

    def account(self, budget: str) -> str:
        """The ledger's account of a budget, by the PrivacyBudget's name or the account's own id.

        Raises:
            NotFound: If the budget has none yet.
        """
        import re

        if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", budget):
            return budget
        found = (self.get("PrivacyBudget", budget).get("status") or {}).get("accountId")
        if not found:
            raise NotFound(f"budget {budget} must have an account; found none yet. Is it Ready?")
        return str(found)

    @cached_property
    def ledger(self) -> LedgerApiClient:
        """The ledger API, as the kubeconfig's user.

        Raises:
            NotFound: If nobody says where it is.
            Refused: If its user has no token to send.
        """
        from primum.adapters.ledger_api.client import LedgerApiClient
        from primum.entrypoints.api_headers import FORWARDED

        line = self._line  # kubectl gets ready while the token is looked for.
        token = self._token()
        url = self._options.ours.get("--ledger") or os.environ.get("PRIMUM_LEDGER_URL", "")
        said = {} if url else self._address()
        if url or said.get("url"):
            ca = self._options.ours.get("--ledger-ca") or os.environ.get("PRIMUM_LEDGER_CA", "")
            ca = ca or self._kept(said.get("ca.crt", ""))
            return LedgerApiClient(
                url or said["url"], lambda: token, ca_file=ca, patience_seconds=0.0
            )
        home = self._home
        way = f"/api/v1/namespaces/{home}/services/{said['service']}/proxy"
        return LedgerApiClient(
            f"http://kubectl{way}",
            lambda: token,
            patience_seconds=0.0,
            connect=line.connection,
            header=FORWARDED,
        )

    def _kept(self, authority: str) -> str:
        """A file with the authority that the chart names, for as long as this lasts."""
        if not authority:
            return ""
        import tempfile
        from pathlib import Path

        folder = self._closing.enter_context(tempfile.TemporaryDirectory(prefix="primum-ca-"))
        file = Path(folder) / "ca.crt"
        file.write_text(authority, encoding="utf-8")
        return str(file)

    @property
    def _home(self) -> str:
        return self._options.ours.get("--platform-namespace") or PLATFORM_NAMESPACE

    def _address(self) -> dict[str, str]:
        try:
            found = self._line.get(f"/api/v1/namespaces/{self._home}/configmaps/{ADDRESS}")
        except (NotFound, Refused) as error:
            raise NotFound(
                f"the ledger API must be named by --ledger, PRIMUM_LEDGER_URL or the ConfigMap "
                f"{ADDRESS} in {self._home} (chart value kubectl.enabled); found none. {error}"
            ) from None
        return dict(found.get("data") or {})

    def _token(self) -> str:
        account = self._options.ours.get("--service-account", "")
        if account:
            return self._token_of(account)
        if self._options.impersonation:
            raise Refused(
                "the ledger API sees whose token it is sent, not --as. Use --service-account "
                "NAMESPACE/NAME, or ask as yourself."
            )
        from primum.adapters.kubectl import token_of

        token = token_of(self._config)
        if not token:
            raise Refused(
                "the ledger API must be sent a token; found a kubeconfig whose user has none, such "
                "as one that logs in by certificate. Use --service-account NAMESPACE/NAME."
            )
        return token

    def _token_of(self, account: str) -> str:
        namespace, slash, name = account.partition("/")
        if not (namespace and slash and name):
            raise InvalidValue("--service-account", "must be NAMESPACE/NAME", account)
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": TOKEN_SECONDS},
        }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        return str(self._line.create(path, body)["status"]["token"])


@contextlib.contextmanager
def opened(options: Options) -> Iterator[Cluster]:
    """A cluster to ask until the block ends."""
    with contextlib.ExitStack() as closing:
        yield Cluster(options, closing)


def full_name(kind: str, name: str) -> str:
    """A resource as kubectl's ``-o name`` says it, such as ``study.primum.dev/malignancy``."""
    from primum.resources.metadata import GROUP

    return f"{kind.lower()}.{GROUP}/{name}"


def named(word: str, kind: str) -> str:
    """The name in ``KIND/NAME`` or ``NAME``.

    Raises:
        InvalidValue: If it is of another kind.
    """
    from primum.entrypoints.cli import session

    given, slash, name = word.rpartition("/")
    if slash and session.kind_of(given) != kind:
        raise InvalidValue("name", f"must be of a {kind}", word)
    return name

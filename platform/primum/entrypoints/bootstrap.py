"""The only place that picks implementations.

Everything heavy is imported where it is picked, not before.
"""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primum.domain.errors import InvalidValue, NotFound
from primum.entrypoints.settings import ComputeKind, Settings

if TYPE_CHECKING:
    from primum.adapters.identity import Identity
    from primum.adapters.kfp import LocalKfpRunner
    from primum.adapters.ledger_api.client import LedgerApiClient
    from primum.adapters.openlineage import Outbox
    from primum.adapters.sql.resources import SqlResourceStore
    from primum.adapters.zone import LocalZone
    from primum.application.consent import LineageReader
    from primum.application.platform import Platform
    from primum.application.ports import Lineage, Publisher, Signer
    from primum.domain.accounting.accountant import Accountant
    from primum.domain.study.jobs import JobKind
    from primum.domain.study.steps import StepContext, StepServices

PRODUCER = "https://primum.dev/primum"
_OPERATOR_PATIENCE_SECONDS = 10.0  # It is level-based, and comes back by itself.


def prepare_home(settings: Settings) -> None:
    """Create the home folder, its keys, its owner's token and its database; all of it only once.

    A process that asks the ledger API makes the folder alone: it has neither key nor database.
    """
    from primum.adapters import identity, keys
    from primum.adapters.sql import migrate

    try:
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if settings.ledger_url:
            return
        keys.ensure(keys_folder(settings))
        identity.ensure_owner(settings.home)
    except OSError as error:
        found = f"{settings.home}, {error.strerror or 'an error'}"
        raise InvalidValue(
            "PRIMUM_HOME", "must be a folder that can be written", found, "Choose another one."
        ) from None
    migrate(settings.database_url)


def check_key(settings: Settings) -> None:
    """Have the public half beside a key that was put here; none is made in its place.

    Raises:
        NotFound: If there is no key: another one would sign what nobody believes.
    """
    from primum.adapters import keys

    folder = keys_folder(settings)
    if not (folder / keys.PRIVATE_NAME).exists():
        raise NotFound(f"the platform's key must be in {folder}; found none.")
    keys.ensure(folder)


def stores(settings: Settings) -> Any:
    """Ledger, evidence and resources: on the configured database, or behind the ledger API."""
    if settings.ledger_url:
        from primum.adapters.ledger_api.stores import remote_stores

        return remote_stores(_ledger_api(settings))
    from primum.adapters.anchor import FileAnchor
    from primum.adapters.sql import open_stores
    from primum.adapters.system import SystemClock

    return open_stores(settings.database_url, SystemClock(), anchor=FileAnchor(settings.anchor))


def resource_store(settings: Settings) -> SqlResourceStore:
    """The declared resources alone: what `primum get` needs, without the ledger's imports."""
    from primum.adapters.sql import open_resources
    from primum.adapters.system import SystemClock

    return open_resources(settings.database_url, SystemClock())


def platform(settings: Settings) -> Platform:
    """Every port of the embedded profile."""
    from primum import extensions
    from primum.adapters.archive import FolderArchive
    from primum.adapters.system import SystemClock
    from primum.application.platform import Conduct, Platform

    opened = stores(settings)
    return Platform(
        clock=SystemClock(),
        ledger=opened.ledger,
        evidence=opened.evidence,
        resources=opened.resources,
        runner=runner(settings),
        compute=compute(settings),
        datasets=zone(settings),
        lineage=lineage(settings),
        signer=signer(settings),
        policies=extensions.load("primum.policy_engines", "cel")(),
        publisher=_publisher(settings),
        archive=FolderArchive(settings.home / "certificates"),
        kinds=_kinds,
        accountant=accountant,
        conduct=Conduct(
            lease_seconds=settings.lease_seconds,
            token_seconds=settings.token_seconds,
            artifacts_uri=artifacts_uri(settings),
            data_dirs=settings.data_dirs,
            producer=PRODUCER,
            credential_seconds=settings.credential_seconds,
            public_places=settings.public_data,
        ),
        forget_shadows=lambda study: _forget_shadows(settings, study),
    )


def _forget_shadows(settings: Settings, study: str) -> None:
    from primum import extensions

    extensions.load("primum.step_runtime", "shadows_forget")(str(zone_folder(settings)), study)


def warm_up(platform: Platform) -> None:
    """Load what planning needs, before the first Study waits for it."""
    from primum.domain.risk.audits import max_certifiable_one_run

    for kind in platform.kinds().values():
        kind.entry("validate")
    platform.policies.check(platform.policies.bundle("clinical-default") or {})
    max_certifiable_one_run(guesses=10, canaries=10, delta=1e-5, p_value=0.05)


def step_services(settings: Settings, context: StepContext) -> StepServices:
    """What one step's process needs, and nothing else.

    Raises:
        InvalidValue: If the ledger API cannot be asked as the settings say.
    """
    if settings.ledger_url:
        return _remote_step_services(settings, context)
    from primum.adapters.system import SystemClock
    from primum.application.access import Gatekeeper
    from primum.application.step_services import DirectStepServices

    opened = stores(settings)
    key = signer(settings)
    return DirectStepServices(
        context=context,
        keeper=Gatekeeper(
            opened.ledger, key, SystemClock(), settings.token_seconds, opened.evidence
        ),
        ledger=opened.ledger,
        store=opened.evidence,
        worker=compute(settings, context=context),
        signer=key,
        lineage_sink=lineage(settings),
        artifacts=artifacts_uri(settings),
        folders=settings.data_dirs,
        zone=str(zone_folder(settings)),
        attempt=secrets.token_urlsafe(),
    )


def _remote_step_services(settings: Settings, context: StepContext) -> StepServices:
    from primum.adapters.ledger_api.client import LedgerApiClient
    from primum.adapters.ledger_api.steps import HttpStepServices

    if not context.credential:
        raise InvalidValue(
            "context.credential", "must be the credential of the run", "none", "Launch it again."
        )
    return HttpStepServices(
        context=context,
        client=LedgerApiClient(
            settings.ledger_url, lambda: context.credential, ca_file=settings.ledger_ca
        ),
        worker=compute(settings, context=context),
        artifacts=artifacts_uri(settings),
        folders=settings.data_dirs,
        zone=str(zone_folder(settings)),
    )


@functools.cache
def _ledger_api(settings: Settings) -> LedgerApiClient:
    """The ledger API, as a process of the platform asks it."""
    from primum.adapters.ledger_api.client import LedgerApiClient

    def token() -> str:
        # Kubernetes replaces the file long before the token in it ends.
        return Path(settings.token_file).read_text().strip() if settings.token_file else own

    own = settings.token
    return LedgerApiClient(
        settings.ledger_url,
        token,
        ca_file=settings.ledger_ca,
        patience_seconds=_OPERATOR_PATIENCE_SECONDS,
    )


def identities(
    settings: Settings, otherwise: Callable[[str], Identity]
) -> Callable[[str], Identity]:
    """Whose token it is: the OIDC provider's word for its own tokens, another's for the rest.

    Raises:
        InvalidValue: If the settings of the provider cannot be used.
    """
    if not settings.oidc:
        return otherwise
    from primum.adapters.oidc import OidcIdentities, read_settings

    provider = OidcIdentities(read_settings(settings.oidc))
    return lambda token: provider.identify(token) if provider.issued(token) else otherwise(token)


def zone(settings: Settings) -> LocalZone:
    """The steward's zone on this machine."""
    from primum.adapters.zone import LocalZone

    return LocalZone(settings.data_dirs, child_environment(settings), folder=zone_folder(settings))


def signer(settings: Settings) -> Signer:
    """The platform's key, or who signs with it."""
    if settings.ledger_url:
        from primum.adapters.ledger_api.stores import RemoteSigner

        return RemoteSigner(_ledger_api(settings))
    from primum.adapters import keys

    return keys.FileSigner(keys_folder(settings))


def compute(settings: Settings, *, context: StepContext | None = None) -> Any:
    """Workers of the Ray cluster that this process is in, or warm ones of the home folder.

    Args:
        settings: Where they are.
        context: The step that they are for, if there is one: it says how many and how large.
    """
    from primum.adapters.ray.compute import RayCompute
    from primum.adapters.ray.group import GroupSize

    size = GroupSize()
    if context is not None:
        size = GroupSize(
            workers=context.workers,
            cpus_per_worker=context.cpus_per_worker or 1,
            gpus_per_worker=context.gpus_per_worker,
            workers_per_gpu=context.workers_per_gpu,
        )

    if settings.compute is ComputeKind.RAY:
        from primum.adapters.ray.attached import AttachedRay

        return AttachedRay(size=size)
    return RayCompute(
        settings.home,
        num_cpus=settings.workers,
        num_gpus=settings.gpus,
        environment=child_environment(settings),
        size=size,
    )


def stop_compute(settings: Settings) -> None:
    """Stop the workers of the home folder."""
    from primum.adapters.ray.compute import ray_down

    ray_down(settings.home)


def lineage(settings: Settings) -> Lineage:
    """The outbox that lineage events wait in."""
    return _outbox(settings)


def lineage_reader(settings: Settings) -> LineageReader:
    """The platform's own store of lineage."""
    return _outbox(settings)


def lineage_flusher(settings: Settings) -> Callable[[], int]:
    """Delivers what waits in the outbox; called by the control loop alone."""
    return _outbox(settings).flush


def lineage_backlog(settings: Settings) -> Callable[[], int]:
    """How many deliveries of lineage events still wait."""
    outbox = _outbox(settings)
    return lambda: sum(item.waiting for item in outbox.backlog().values())


def _outbox(settings: Settings) -> Outbox:
    from primum.adapters.openlineage import FileDestination, HttpDestination, Outbox

    folder = settings.home / "lineage"
    folder.mkdir(parents=True, exist_ok=True)
    destinations: list[Any] = [FileDestination(folder / "events.ndjson", PRODUCER)]
    if settings.lineage_url:
        destinations.append(HttpDestination(settings.lineage_url, PRODUCER))
    return Outbox(folder / "outbox.db", destinations=destinations)


def accountant(policy: str) -> Accountant:
    """The accountant that speaks for an accounting policy inside a pre-registered plan."""
    from primum.domain.accounting.basic import BasicAccountant
    from primum.domain.accounting.gdp import GdpAccountant
    from primum.domain.accounting.rdp import RdpAccountant

    known: Mapping[str, Callable[[], Accountant]] = {
        "RDP": RdpAccountant,
        "GDP": GdpAccountant,
        "Basic": BasicAccountant,
    }
    if policy not in known:
        raise NotFound(
            f"accounting policy {policy!r} has no accountant; known are {', '.join(known)}"
        )
    return known[policy]()


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of every child: our settings, no telemetry, one thread, and byte code kept.

    Without byte code every process compiles what it imports, which doubles the time of all of them.
    """
    environment = dict(os.environ) | settings.environment()
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment | QUIET


# Nothing phones home; see docs/decisions/0003 for each switch.
QUIET: dict[str, str] = {
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def _kinds() -> Mapping[str, JobKind]:
    from primum import extensions

    return extensions.load_all("primum.job_kinds")


def runner(settings: Settings) -> LocalKfpRunner:
    """Pipeline runs on this machine."""
    from primum.adapters.kfp import LocalKfpRunner

    return LocalKfpRunner(settings.home, environment=child_environment(settings))


def _publisher(settings: Settings) -> Publisher:
    from primum.adapters import keys
    from primum.adapters.serving import FolderPublisher

    url = f"http://{settings.host}:{settings.serving_port}"
    if settings.ledger_url:
        public_key = signer(settings).public_key()
    else:
        public_key = keys.PublicKeyReader(keys_folder(settings)).public_key()
    return FolderPublisher(serving_registry(settings), base_url=url, public_key=public_key)


def artifacts_uri(settings: Settings) -> str:
    """Where Studies store artifacts."""
    return (settings.home / "artifacts").as_uri()


def serving_registry(settings: Settings) -> Path:
    """The folder that the inference server watches."""
    return settings.home / "serving"


def keys_folder(settings: Settings) -> Path:
    """Where the platform's key lies."""
    return settings.home / "keys"


def zone_folder(settings: Settings) -> Path:
    """What stays in the steward's zone: whose consent was withdrawn."""
    return settings.home / "zone"

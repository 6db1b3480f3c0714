"""The only door to openlineage-python: our plain events become its classes, which send them.

Closed by construction: an event or facet with a field that is not listed here is refused, not
passed on. The library's client is not used, because it adds facets from environment variables and
configuration files that nobody here decided to publish; its event classes, serializer and
transports are. Import this module only when sending.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attr
from openlineage.client import event_v2
from openlineage.client.facet_v2 import (
    data_quality_assertions_dataset,
    dataset_type_dataset,
    dataset_version_dataset,
    error_message_run,
    job_type_job,
    parent_run,
    test_run,
)
from openlineage.client.generated.base import RunFacet
from openlineage.client.transport.file import FileConfig, FileTransport
from openlineage.client.transport.http import HttpConfig, HttpTransport

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, Unavailable

if TYPE_CHECKING:
    from primum.adapters.openlineage.outbox import HttpDestination

FACET_VERSION = "1-0-0"  # A published schema never changes; a change gets a new version beside it.
FACET_BASE = f"https://primum.dev/lineage/facets/{FACET_VERSION}"
_HTTP_SECONDS = 5.0
_CLIENT_ERRORS = range(400, 500)
_RETRIED_STATUSES = (
    401,
    403,
    404,
    408,
    429,
)  # Wrong now, right once somebody has fixed the receiver.


def _schema_url(name: str) -> str:
    return f"{FACET_BASE}/{name}.json#/$defs/{name}"


@attr.define
class PrimumReservationRunFacet(RunFacet):
    """Which reservations answer for a run."""

    reservations: list[dict[str, Any]]

    @staticmethod
    def _get_schema() -> str:
        return _schema_url("PrimumReservationRunFacet")


@attr.define
class PrimumChargeRunFacet(RunFacet):
    """The events that mechanisms executed in a run."""

    charges: list[dict[str, Any]]

    @staticmethod
    def _get_schema() -> str:
        return _schema_url("PrimumChargeRunFacet")


@attr.define
class PrimumAuditRunFacet(RunFacet):
    """What a run's privacy audits came to: verdicts and digests."""

    audits: list[dict[str, Any]]

    @staticmethod
    def _get_schema() -> str:
        return _schema_url("PrimumAuditRunFacet")


@attr.define
class PrimumGateRunFacet(RunFacet):
    """What gates came to: verdicts and digests."""

    decisions: list[dict[str, Any]]

    @staticmethod
    def _get_schema() -> str:
        return _schema_url("PrimumGateRunFacet")


_Built = Callable[[Mapping[str, Any]], Any]


def _parent(value: Mapping[str, Any]) -> Any:
    root = value.get("root")
    return parent_run.ParentRunFacet(
        run=parent_run.Run(**value["run"]),
        job=parent_run.Job(**value["job"]),
        root=parent_run.Root(
            run=parent_run.RootRun(**root["run"]), job=parent_run.RootJob(**root["job"])
        )
        if root
        else None,
    )


def _assertions(value: Mapping[str, Any]) -> Any:
    module = data_quality_assertions_dataset
    assertions = [module.Assertion(**item, params=None) for item in value["assertions"]]
    return module.DataQualityAssertionsDatasetFacet(assertions=assertions)


def _tests(value: Mapping[str, Any]) -> Any:
    return test_run.TestRunFacet(
        tests=[test_run.TestExecution(**item, params=None) for item in value["tests"]]
    )


def _plain(facet: type[Any], value: Mapping[str, Any]) -> Any:
    return facet(**value)


def _listed(facet: type[Any], allowed: frozenset[str], value: Mapping[str, Any]) -> Any:
    """A facet that is one list of flat objects, each with no key but the published ones."""
    for items in value.values():
        for item in items:
            if not allowed.issuperset(item):
                raise ValueError("an unpublished field")
    return facet(**value)


_RESERVATION = frozenset({"budget", "access", "reservationId", "accountId"})
_CHARGE = frozenset({"budget", "access", "reservationId", "event", "receiptDigest"})
_AUDIT = frozenset({"kind", "attack", "verdict", "evidenceDigest"})
_DECISION = frozenset({"policy", "policyDigest", "stage", "verdict", "evidenceDigests"})

_RUN_FACETS: dict[str, _Built] = {
    "parent": _parent,
    "test": _tests,
    "errorMessage": partial(_plain, error_message_run.ErrorMessageRunFacet),
    "primum_reservation": partial(_listed, PrimumReservationRunFacet, _RESERVATION),
    "primum_charge": partial(_listed, PrimumChargeRunFacet, _CHARGE),
    "primum_audit": partial(_listed, PrimumAuditRunFacet, _AUDIT),
    "primum_gate": partial(_listed, PrimumGateRunFacet, _DECISION),
}
_JOB_FACETS: dict[str, _Built] = {"jobType": partial(_plain, job_type_job.JobTypeJobFacet)}
_DATASET_FACETS: dict[str, _Built] = {
    "version": partial(_plain, dataset_version_dataset.DatasetVersionDatasetFacet),
    "datasetType": partial(_plain, dataset_type_dataset.DatasetTypeDatasetFacet),
}
_INPUT_FACETS: dict[str, _Built] = {"dataQualityAssertions": _assertions}


def run_event(event: Mapping[str, Any], *, producer: str) -> event_v2.RunEvent:
    """One of our plain events as the library's own class.

    Args:
        event: As built by ``primum.domain.study.lineage``.
        producer: URI of what produced it.

    Raises:
        InvalidValue: If it holds a facet or field that we do not publish, or lacks one.
    """
    event_v2.set_producer(producer)
    try:
        return event_v2.RunEvent(
            eventType=event_v2.RunState(event["eventType"]),
            eventTime=event["eventTime"],
            producer=producer,
            run=event_v2.Run(
                runId=event["run"]["runId"], facets=_facets(event["run"]["facets"], _RUN_FACETS)
            ),
            job=event_v2.Job(
                namespace=event["job"]["namespace"],
                name=event["job"]["name"],
                facets=_facets(event["job"]["facets"], _JOB_FACETS),
            ),
            inputs=[_input(item) for item in event["inputs"]],
            outputs=[_output(item) for item in event["outputs"]],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidValue(
            "lineage event", "must hold only published facets and fields", type(error).__name__
        ) from error


def _input(item: Mapping[str, Any]) -> event_v2.InputDataset:
    return event_v2.InputDataset(
        namespace=item["namespace"],
        name=item["name"],
        facets=_facets(item["facets"], _DATASET_FACETS),
        inputFacets=_facets(item["inputFacets"], _INPUT_FACETS),
    )


def _output(item: Mapping[str, Any]) -> event_v2.OutputDataset:
    return event_v2.OutputDataset(
        namespace=item["namespace"],
        name=item["name"],
        facets=_facets(item["facets"], _DATASET_FACETS),
        outputFacets=_facets(item["outputFacets"], {}),
    )


def _facets(values: Mapping[str, Any], published: Mapping[str, _Built]) -> dict[str, Any]:
    return {name: published[name](value) for name, value in values.items()}


class _Transported:
    """An emitter over one of the library's transports; its errors stop here."""

    def __init__(self, transport: FileTransport | HttpTransport, *, producer: str) -> None:
        self._transport = transport
        self._producer = producer

    def emit(self, event: Mapping[str, JSON]) -> None:
        """Send one event; see ``outbox.Emitter``."""
        built = run_event(event, producer=self._producer)
        try:
            self._transport.emit(built)
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
            status = getattr(getattr(error, "response", None), "status_code", 0)
            if status in _CLIENT_ERRORS and status not in _RETRIED_STATUSES:
                raise InvalidValue(
                    "lineage event", "must be accepted by the receiver", f"HTTP {status}"
                ) from error
            found = f"HTTP {status}" if status else type(error).__name__
            raise Unavailable(f"the lineage receiver did not take an event ({found})") from error

    def close(self) -> None:
        """Close the transport's connections."""
        self._transport.close(0.0)


def file_emitter(path: Path, *, producer: str) -> _Transported:
    """Appends to a file, one JSON document per line."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    config = FileConfig(log_file_path=str(path), append=True)
    return _Transported(FileTransport(config), producer=producer)


def http_emitter(destination: HttpDestination) -> _Transported:
    """Posts to a receiver. Retries are the outbox's business, so the library's own are off."""
    settings: dict[str, Any] = {
        "url": destination.url,
        "endpoint": destination.endpoint,
        "timeout": _HTTP_SECONDS,
        "retry": {"total": 0},
    }
    if destination.api_key:
        settings["auth"] = {"type": "api_key", "apiKey": destination.api_key}
    if destination.ca_file:
        settings["ssl_context"] = {"caCertPath": destination.ca_file}
    transport = HttpTransport(HttpConfig.from_dict(settings))
    return _Transported(transport, producer=destination.producer)

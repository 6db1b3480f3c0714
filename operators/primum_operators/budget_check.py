"""The controller of Kueue's AdmissionCheck ``primum.dev/budget``: one look at one Workload.

Level-based: what is said is decided from the Workload, its job and the ledger as they are now, and
written only where it is news. Reads the ledger, and never writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from primum.adapters.kube.events import EventRecorder, Regarding
from primum.adapters.kube.workloads import ADMISSION_CHECK, WORKLOAD, KueueWorkloads
from primum.adapters.kube_manifests.workload import KUEUE, Check, claim_of, open_checks, owner_of
from primum.application.platform import Platform
from primum.application.workloads import CheckState, Word, judge
from primum.domain.errors import PrimumError, Refused
from primum.domain.names import ResourceKey

KINDS = (WORKLOAD, ADMISSION_CHECK)
_REASONS = {
    CheckState.READY: "ReservationStands",
    CheckState.RETRY: "ReservationAwaited",
    CheckState.REJECTED: "ReservationMissing",
}
_UNGOVERNED = Word(CheckState.READY, "Nothing private may lie in a namespace that is not governed.")

log = structlog.get_logger(__name__)


class BudgetCheck:
    """Answers for every Workload whose ClusterQueue names a check of ours.

    Args:
        platform: The platform.
        workloads: Kueue's objects.
        events: Tells people.
        said: Told of every word that was written.
    """

    def __init__(
        self,
        platform: Platform,
        workloads: KueueWorkloads,
        events: EventRecorder,
        *,
        said: Callable[[CheckState], None],
    ) -> None:
        self._platform, self._workloads = platform, workloads
        self._events, self._said = events, said

    def check_served(self) -> None:
        """Ask for Kueue's kinds once.

        Raises:
            PrimumError: If they are not served, or we may not read them.
        """
        self._workloads.check_served()

    def resync(self, wake: Callable[[ResourceKey], None]) -> None:
        """Have everything looked at that may wait for us; nothing where there is no Kueue."""
        try:
            for key in self._workloads.waiting():
                wake(key)
        except PrimumError as error:
            log.warning("workloads not listed", error=str(error))

    def look(self, key: ResourceKey) -> None:
        """Say what is to be said of one AdmissionCheck or Workload now.

        Raises:
            PrimumError: If something did not answer, or changed meanwhile; look again.
        """
        if key.kind == ADMISSION_CHECK:
            self._workloads.answer_for(key.name)
            return
        workload = self._workloads.workload(key)
        checks = () if workload is None else open_checks(workload)
        ours = [check for check in checks if self._workloads.is_ours(check.name)]
        if workload is None or not ours:
            return
        word, governed = self._word(key, workload)
        for check in ours:
            if check.state == CheckState.READY and word.state is CheckState.READY:
                continue
            self._workloads.say(workload, check, word)
            self._said(word.state)
            if governed:
                self._tell(key, workload, check, word)

    def _word(self, key: ResourceKey, workload: Mapping[str, Any]) -> tuple[Word, bool]:
        """The word, and whether anybody is to be told where the workload is."""
        owner = owner_of(workload)
        try:
            if not self._workloads.is_governed(key.namespace):
                return _UNGOVERNED, False
            job = None if owner is None else self._workloads.job(key.namespace, owner)
        except Refused:
            asked = "its namespace" if owner is None else f"{owner.kind} of {owner.api_version}"
            message = (
                f"the operator must be allowed to read {asked}; found that it is not. Add the kind "
                "to integrations.kueue.frameworks of the chart; the workload waits."
            )
            return Word(CheckState.RETRY, message), True
        if owner is not None and job is None:
            message = (
                f"{owner.kind} {owner.name} of the workload must exist; found none of its uid."
            )
            return Word(CheckState.RETRY, message), True
        return judge(self._platform, claim_of(workload, job)), True

    def _tell(
        self, key: ResourceKey, workload: Mapping[str, Any], check: Check, word: Word
    ) -> None:
        self._events.tell(
            Regarding(KUEUE, key, str(workload["metadata"]["uid"])),
            identity=(check.name, check.since, word.state),
            action="CheckReservation",
            reason=_REASONS[word.state],
            kind="Normal" if word.state is CheckState.READY else "Warning",
            note=word.message,
        )

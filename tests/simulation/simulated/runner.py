"""A pipeline runner whose runs move when told, vanish, leave zombies and are seen too late."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from primum.application.ports import RunStatus
from primum.domain.errors import PrimumError
from primum.domain.study.steps import StepContext, StepOutcome, StepStatus
from simulated.faults import Chaos, SimulatedCrash


@dataclass(slots=True)
class Process:
    """One execution of a run; a run that was lost and launched again may have several."""

    run: str
    steps: Sequence[StepContext]
    index: int = 0
    alive: bool = True
    ended: RunStatus = RunStatus.RUNNING
    busy: bool = False


class SimulatedRunner:
    """``PipelineRunner``.

    Args:
        chaos: Draws faults.
        execute: Runs one step in this process, as the step's entry point would.
    """

    def __init__(self, chaos: Chaos, execute: Callable[[StepContext], StepOutcome]) -> None:
        self._chaos, self._execute = chaos, execute
        self._known: dict[str, Process] = {}
        self._processes: list[Process] = []
        self.launched: list[tuple[str, Sequence[StepContext]]] = []

    def launch(self, run_id: str, *, name: str, steps: Sequence[StepContext]) -> None:
        """Start a run once; a run that was forgotten starts again."""
        if run_id in self._known:
            return
        process = Process(run_id, steps)
        self._known[run_id] = process
        self._processes.append(process)
        self.launched.append((run_id, steps))

    def status(self, run_id: str) -> RunStatus:
        """How the run stands, or stood a moment ago."""
        known = self._known.get(run_id)
        if known is None:
            return RunStatus.UNKNOWN
        if self._chaos.fault(0.05):
            return self._chaos.rng.choice((RunStatus.UNKNOWN, RunStatus.RUNNING, RunStatus.FAILED))
        return known.ended

    def stop(self, run_id: str) -> None:
        """Stop the run; sometimes its process does not hear it."""
        known = self._known.get(run_id)
        if known is not None and known.ended is RunStatus.RUNNING:
            known.ended = RunStatus.FAILED
            known.alive = self._chaos.fault(0.3)

    def logs(self, run_id: str) -> str:
        """Nothing was printed."""
        return ""

    def lose(self) -> None:
        """Forget a run that is known; its process may live on."""
        running = [
            run for run, process in self._known.items() if process.ended is RunStatus.RUNNING
        ]
        if running:
            process = self._known.pop(self._chaos.rng.choice(running))
            process.alive = self._chaos.rng.random() < 0.5

    def double(self) -> None:
        """Start a process a second time, as an evicted pod that was not dead; let them race."""
        live = [process for process in self._processes if process.alive and not process.busy]
        if live:
            spending = [process for process in live if process.steps[process.index].step == "job"]
            process = self._chaos.rng.choice(spending or live)
            self._processes.append(replace(process))
            self._run(process)

    def twins(self) -> list[Process]:
        """Processes about to run a step that another one is in the middle of."""
        busy = {(process.run, process.index) for process in self._processes if process.busy}
        return [p for p in self._processes if p.alive and not p.busy and (p.run, p.index) in busy]

    def progress(self) -> bool:
        """Let some process run its next step. Whether there was one."""
        ready = [process for process in self._processes if process.alive and not process.busy]
        if not ready:
            return False
        self._run(self._chaos.rng.choice(self.twins() or ready))
        return True

    def _run(self, process: Process) -> None:
        process.busy = True
        try:
            outcome = self._execute(process.steps[process.index])
        except (SimulatedCrash, PrimumError):
            self._chaos.count += 1
            if self._chaos.rng.random() < 0.5:
                self._end(process, RunStatus.FAILED)
            return  # Otherwise the step is tried again.
        finally:
            process.busy = False
        process.index += 1
        if outcome.status is StepStatus.FAILED:
            self._end(process, RunStatus.FAILED)
        elif process.index == len(process.steps):
            self._end(process, RunStatus.SUCCEEDED)

    @staticmethod
    def _end(process: Process, status: RunStatus) -> None:
        process.alive = False
        if process.ended is RunStatus.RUNNING:
            process.ended = status

"""PipelineRunner on ``kfp.local``: the compiled KFP pipeline runs as processes of this machine.

A run is one detached process that walks the IR with kfp's own local runner, so it survives the
command that started it. Its folder says how it stands: the lock is held while it runs,
``ended.json`` says how it ended, and a run with neither was killed and may be launched again; its
steps then resume by their outcomes. Only this module and ``primum_pipelines.compile`` touch kfp. It
must not settle, retry or skip anything: steps and control loop do.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from primum import extensions
from primum.adapters import files, processes
from primum.application.ports import RunStatus
from primum.domain.canonical import canonical_json
from primum.domain.errors import InvalidValue, NotFound
from primum.domain.study.steps import StepContext

_RUN_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9-]{0,127}$")
_CONTEXT_BYTES_MAX = (
    96 * 1024
)  # Linux passes at most 128 KiB per argument, and escaping adds to it.
_LAUNCHES_MAX = 5  # A run that dies every time does not get better by more launches.
_LOG_BYTES_SHOWN = 200_000
_STOP_SECONDS = 5.0
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_CONTEXT_LINE = re.compile(r'("context": ").*$', re.MULTILINE)


class LocalKfpRunner:
    """Runs pipelines on this machine.

    Args:
        home: Folder under which runs are kept; private to the owner. environment: What steps find
        in their environment besides what this process has, e.g. connection settings.
    """

    def __init__(self, home: Path, *, environment: Mapping[str, str]) -> None:
        self._runs = home / "runs"
        self._environment = dict(environment)

    def launch(self, run_id: str, *, name: str, steps: Sequence[StepContext]) -> None:
        """Start the run; a no-op while it runs and after it ended.

        Raises:
            InvalidValue: If a step's context is too large to be passed on.
        """
        folder = self._folder(run_id)
        if (folder / "ended.json").exists() or processes.is_running(folder / "lock"):
            return
        arguments = {context.step: _shielded(context) for context in steps}
        launches = _launches(folder)
        if launches >= _LAUNCHES_MAX:
            _end(folder, RunStatus.FAILED, f"died {launches} times")
            return

        def prepare() -> None:
            _write(folder / "run.json", {"name": name, "launches": launches + 1})
            _write(folder / "arguments.json", arguments)
            (folder / "tmp").mkdir(exist_ok=True, mode=0o700)

        # kfp leaves a temporary folder per task behind: this one is removed when the run ends.
        environment = {**self._environment, "TMPDIR": str(folder / "tmp")}
        processes.start_locked(
            [sys.executable, "-m", "primum.adapters.kfp", str(folder)],
            lock=folder / "lock",
            log=folder / "run.log",
            environment=processes.child_environment(environment),
            prepare=prepare,
        )

    def status(self, run_id: str) -> RunStatus:
        """How the run stands; ``UNKNOWN`` also for a killed one, which another launch resumes."""
        folder = self._folder(run_id)
        ended = _ended(folder)
        if ended is not None:
            return ended
        if processes.is_running(folder / "lock"):
            return RunStatus.RUNNING
        # It may have ended between the two looks.
        return _ended(folder) or RunStatus.UNKNOWN

    def stop(self, run_id: str) -> None:
        """Stop the run and everything it started, and have it stay stopped."""
        folder = self._folder(run_id)
        if not folder.exists() or _ended(folder) is not None:
            return
        _end(folder, RunStatus.FAILED, "stopped")
        processes.end_marked(folder / "lock", grace_seconds=_STOP_SECONDS)
        _tidy(folder)

    def under_way(self) -> list[str]:
        """Names of the runs that run now."""
        return [
            str(_read(folder / "run.json").get("name", folder.name))
            for folder in self._folders()
            if processes.is_running(folder / "lock")
        ]

    def interrupt(self) -> None:
        """End the processes of every run, as a machine that goes down would; each may resume."""
        for folder in self._folders():
            if processes.is_running(folder / "lock"):
                processes.end_marked(folder / "lock", grace_seconds=_STOP_SECONDS)

    def _folders(self) -> list[Path]:
        return sorted(self._runs.iterdir()) if self._runs.is_dir() else []

    def logs(self, run_id: str) -> str:
        """What the run printed, the end of it where it is long.

        Raises:
            NotFound: If the run was never launched here.
        """
        path = self._folder(run_id) / "run.log"
        if not path.exists():
            raise NotFound(
                f"run {run_id} must have been launched on this machine; found no log of it."
            )
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_BYTES_SHOWN))
            return _COLOR.sub("", file.read().decode(errors="replace"))

    def _folder(self, run_id: str) -> Path:
        if not _RUN_ID.fullmatch(run_id):
            raise InvalidValue("run_id", "must be letters, digits and '-'", run_id)
        return self._runs / run_id


def _shielded(context: StepContext) -> str:
    """A context as JSON text that kfp.local passes on unchanged.

    It replaces ``python3`` and ``{{$...}}`` in every argument, whatever they stand in. JSON may
    spell any character as an escape, so the value a step reads, and its digest, stay the same.
    """
    text = canonical_json(context.to_json()).decode()
    text = text.replace("python3", "pytho\\u006e3").replace("{{", "\\u007b\\u007b")
    if len(text.encode()) > _CONTEXT_BYTES_MAX:
        raise InvalidValue(
            f"context of step {context.step}",
            f"must be at most {_CONTEXT_BYTES_MAX} bytes",
            f"{len(text)} bytes",
            "Declare fewer accesses.",
        )
    return text


def _launches(folder: Path) -> int:
    return int(_read(folder / "run.json").get("launches", 0))


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _ended(folder: Path) -> RunStatus | None:
    try:
        return RunStatus(json.loads((folder / "ended.json").read_text(encoding="utf-8"))["status"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError):
        return RunStatus.FAILED


def _end(folder: Path, status: RunStatus, message: str) -> None:
    """Write how the run ended, unless that is known already: the first word stands."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    ended = json.dumps({"status": status.value, "message": message}).encode()
    with contextlib.suppress(FileExistsError):
        files.create(folder / "ended.json", ended, mode=files.OWNER_ONLY)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    files.replace(path, json.dumps(value).encode(), mode=files.OWNER_ONLY)


def _tidy(folder: Path) -> None:
    """Remove what only a running run needs, its tickets first."""
    (folder / "arguments.json").unlink(missing_ok=True)
    for name in ("tmp", "root"):
        shutil.rmtree(folder / name, ignore_errors=True)


class _Redacted(io.TextIOBase):
    """A stream that shows no secret and no context: kfp prints each task's inputs."""

    def __init__(self, stream: TextIO, secrets: Sequence[str]) -> None:
        self._stream = stream
        self._secrets = secrets

    def write(self, text: str, /) -> int:
        """Write without secrets."""
        shown = _CONTEXT_LINE.sub(r'\1..."', text)
        for secret in self._secrets:
            shown = shown.replace(secret, "[secret]")
        self._stream.write(shown)
        self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Flush what is below."""
        self._stream.flush()


def _run(folder: Path) -> int:
    """The detached process: compile the IR, then have kfp walk it."""
    processes.keep_lock_private()
    os.umask(0o077)
    arguments = json.loads((folder / "arguments.json").read_text(encoding="utf-8"))
    (folder / "arguments.json").unlink()  # Tickets must not lie around; a relaunch brings its own.
    redacted = _Redacted(sys.stdout, _secrets(arguments.values()))
    with contextlib.redirect_stdout(redacted), contextlib.redirect_stderr(redacted):
        try:
            parameter = extensions.load("primum.step_runtime", "context_parameter")
            told = {parameter(step): text for step, text in arguments.items()}
            run_pipeline(_compiled(list(arguments), folder), folder=folder, arguments=told)
            status, message = RunStatus.SUCCEEDED, ""
        except Exception as error:  # noqa: BLE001 - kfp raises what it likes
            print(f"run failed: {type(error).__name__}: {error}")  # noqa: T201 - the run's own log
            status, message = RunStatus.FAILED, type(error).__name__
    _tidy(folder)
    _end(folder, status, message)
    return 0 if status is RunStatus.SUCCEEDED else 1


def _secrets(contexts: Iterable[str]) -> list[str]:
    """Every ticket and credential that the contexts carry."""
    told = [json.loads(text) for text in contexts]
    found = [secret for item in told for secret in item["tickets"].values()]
    return [secret for secret in (*found, *(item["credential"] for item in told)) if secret]


def _compiled(steps: Sequence[str], folder: Path) -> Path:
    """The IR of these steps, kept with the run; compiling is 20 ms beside importing kfp."""
    text: str = extensions.load("primum.step_runtime", "compile")(steps)
    path = folder / "pipeline.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def run_pipeline(pipeline: Path, *, folder: Path, arguments: Mapping[str, Any]) -> None:
    """Have kfp walk a compiled pipeline in this process, each task in one of its own.

    Args:
        pipeline: The IR.
        folder: Where kfp keeps what tasks leave.
        arguments: The pipeline's parameters.

    Raises:
        Exception: Whatever kfp raises where a task fails.
    """
    from kfp import local
    from kfp.components import load_component_from_file

    if re.search(r"\s", sys.executable):
        # kfp puts the interpreter into a shell line without quotes; a folder name may hold a space.
        os.environ["PATH"] = (
            f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        )
        sys.executable = "python3"
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "root"),
        workspace_root=str(folder / "tmp" / "workspace"),
        enable_caching=False,
    )
    component = load_component_from_file(str(pipeline))
    component(**arguments)


if __name__ == "__main__":
    with processes.short_lived():
        sys.exit(_run(Path(sys.argv[1])))

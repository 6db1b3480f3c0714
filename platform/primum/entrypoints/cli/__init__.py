"""The ``primum`` command: parse, call one use case, render. Heavy imports only where they are used.

Exit codes: 0 done, 1 a fault of ours, 2 invalid input, 3 refused by policy, ledger or audit, 4 not
found, 5 conflict, 6 tampered, 7 unavailable, 8 timed out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import click
import typer

from primum.adapters import processes
from primum.entrypoints.cli import (
    audits,
    bounds,
    certificates,
    comparing,
    conformance,
    consent,
    ledger,
    pipelines,
    quoting,
    resources,
    revoking,
    running,
    tokens,
)

app = typer.Typer(
    name="primum",
    help="Privacy-governed machine learning for hospitals. Primum non nocere.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Plain help is escaped for rich all the same wherever rich is installed: "\\[required]".
typer.core.HAS_RICH = False
for module in (
    running,
    resources,
    quoting,
    ledger,
    audits,
    revoking,
    certificates,
    comparing,
    conformance,
    consent,
    pipelines,
    tokens,
    bounds,
):
    module.register(app)


def main() -> None:
    """Run the command line."""
    run(lambda: app(standalone_mode=False, prog_name="primum"))


def run(work: Callable[[], object]) -> None:
    """Run a command; whatever goes wrong becomes one sentence and an exit code."""
    try:
        with processes.short_lived():
            code = work()
    except click.exceptions.NoArgsIsHelpError as shown:
        print(shown.format_message())
        sys.exit(2)
    except click.ClickException as error:
        print(f"error: {_asked_wrongly(error)}", file=sys.stderr)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        print("stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader has gone (`primum get ... | head`): nothing is left to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - nobody should ever see a traceback
        sys.exit(_failed(error))
    sys.exit(code if isinstance(code, int) else 0)


def _asked_wrongly(error: click.ClickException) -> str:
    """A usage error as one sentence with the command that explains more."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "primum"
    said = " ".join(error.format_message().split()).rstrip(".")
    return f"{said}. Try `{command} --help`."


def _failed(error: Exception) -> int:
    from primum.domain.errors import PrimumError
    from primum.entrypoints.cli.exits import Exit, code_of

    if isinstance(error, PrimumError):
        print(f"error: {error}", file=sys.stderr)
        return code_of(error)
    if isinstance(error, OSError) and error.strerror:
        print(f"error: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return Exit.UNAVAILABLE
    # The text of a foreign exception may hold a value from the data; its type may not.
    where = "; set PRIMUM_DEBUG=1 to see where" if not os.environ.get("PRIMUM_DEBUG") else ""
    print(f"error: a fault of Primum ({type(error).__name__}){where}", file=sys.stderr)
    if not where:
        raise error
    return Exit.FAULT

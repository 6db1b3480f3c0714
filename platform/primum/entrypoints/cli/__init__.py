"""The ``primum`` command: parse, call one use case, render. Heavy imports only where they are used.

Exit codes: 0 done, 1 a fault of ours, 2 invalid input, 3 refused by policy, ledger or audit, 4 not
found, 5 conflict, 6 tampered, 7 unavailable, 8 timed out.
"""

from __future__ import annotations

import sys

import typer

from primum.entrypoints.cli import audits, bounds, certificates, ledger, quoting, resources, running

app = typer.Typer(
    name="primum",
    help="Privacy-governed machine learning for hospitals. Primum non nocere.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (running, resources, quoting, ledger, audits, certificates, bounds):
    module.register(app)


def main() -> None:
    """Run the command line; our errors become one sentence and an exit code."""
    from primum.domain.errors import PrimumError

    try:
        app()
    except PrimumError as error:
        from primum.entrypoints.cli.exits import code_of

        print(f"error: {error}", file=sys.stderr)
        sys.exit(code_of(error))
    except BrokenPipeError:
        sys.exit(0)
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)

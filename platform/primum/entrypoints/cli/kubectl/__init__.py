"""``kubectl primum``: what one asks about Studies, budgets and releases beside ``kubectl get``.

A plugin of kubectl, which is the only way to the cluster: its options mean what they mean there and
may stand anywhere. Ledger and evidence are asked for at the ledger API, as the kubeconfig's user.
Exit codes are those of ``primum``.
"""

from __future__ import annotations

import sys

import typer

from primum.entrypoints.cli import run
from primum.entrypoints.cli.kubectl import (
    audits,
    certificates,
    connection,
    explaining,
    ledger,
    quoting,
    revoking,
)

app = typer.Typer(
    name="kubectl primum",
    help=connection.HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (quoting, explaining, ledger, audits, certificates, revoking):
    module.register(app)


def main() -> None:
    """Run the plugin as the program of this process."""
    run(lambda: _run(sys.argv[1:]))


def _run(arguments: list[str]) -> object:
    options, rest = connection.options_of(arguments)
    with connection.opened(options) as cluster:
        return app(rest, standalone_mode=False, prog_name="kubectl primum", obj=cluster)

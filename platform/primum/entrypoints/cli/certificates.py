"""``primum certificate``: show what is promised about an artifact, and check it offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from primum.entrypoints.cli.exits import Exit
from primum.entrypoints.cli.rendering import Output


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="What is promised about a released artifact.", no_args_is_help=True)
    group.command("verify")(verify)
    group.command("show")(show)
    app.add_typer(group, name="certificate")


def verify(
    file: Annotated[Path, typer.Argument(help="The certificate.")],
    public_key: Annotated[
        Path | None, typer.Option("--public-key", help="PEM; default: this platform's.")
    ] = None,
    artifact: Annotated[
        Path | None, typer.Option("--artifact", help="The artifact's file.")
    ] = None,
) -> None:
    """Check signature, shape and, if given, the artifact's bytes; offline.

    Exit 6 if anything is wrong.

    Example: primum certificate verify .primum/certificates/malignancy-1.json
    """
    from primum import verification
    from primum.domain.canonical import digest_of_bytes
    from primum.entrypoints import bootstrap, settings

    envelope = _read(file)
    pem = (
        public_key or bootstrap.keys_folder(settings.from_environment()) / "signing.pub.pem"
    ).read_text()
    digest = digest_of_bytes(artifact.read_bytes()) if artifact else None
    problems = verification.verify_certificate(envelope, pem, digest)
    for problem in problems:
        print(problem)
    if problems:
        raise typer.Exit(Exit.TAMPERED)
    print(f"valid: {file} holds" + (f" for {artifact}" if artifact else ""))


def show(
    file: Annotated[Path, typer.Argument(help="The certificate.")],
    output: Annotated[
        Output, typer.Option("--output", "-o", help="table, json or yaml.")
    ] = Output.YAML,
) -> None:
    """Print the statement inside a certificate, without checking it.

    Example: primum certificate show .primum/certificates/malignancy-1.json
    """
    import base64
    import json

    from primum.entrypoints.cli import rendering

    payload = base64.b64decode(str(_read(file)["payload"]))
    rendering.structured(json.loads(payload), Output.YAML if output is Output.TABLE else output)


def _read(file: Path) -> dict[str, Any]:
    import json

    from primum.domain.errors import NotFound, Tampered

    try:
        value = json.loads(file.read_text())
    except FileNotFoundError:
        raise NotFound(f"certificate {file} does not exist") from None
    except ValueError:
        raise Tampered(f"certificate {file} must be JSON; found something else") from None
    if not isinstance(value, dict):
        raise Tampered(f"certificate {file} must be a JSON object; found something else")
    return value

"""``primum certificate``: show what is promised about an artifact, and check it offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from primum.entrypoints.cli import files
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

    Exit 6 if anything is wrong, 3 if this platform has revoked it.

    Example: primum certificate verify .primum/certificates/malignancy-1.json
    """
    from primum.entrypoints import bootstrap, settings

    envelope = files.json_object(file, "certificate")
    key_file = public_key or bootstrap.keys_folder(settings.from_environment()) / "signing.pub.pem"
    check(envelope, key_file, artifact)
    if _revoked_here(envelope):
        print(f"revoked: {file} is in form, and this platform has withdrawn what it was for")
        raise typer.Exit(Exit.REFUSED)
    print(f"valid: {file} holds" + (f" for {artifact}" if artifact else ""))
    print_claim(envelope, key_file)


def check(envelope: Mapping[str, Any], public_key: Path, artifact: Path | None) -> None:
    """Check signature, shape and, if given, the artifact's bytes.

    Raises:
        Exit: 6 if anything is wrong, after saying what.
    """
    from primum import verification
    from primum.domain.canonical import digest_of_bytes

    pem = files.text(public_key, "public key")
    digest = digest_of_bytes(files.content(artifact, "artifact")) if artifact else None
    problems = verification.verify_certificate(envelope, pem, digest)
    for problem in problems:
        print(problem)
    if problems:
        raise typer.Exit(Exit.TAMPERED)


def print_claim(envelope: Mapping[str, Any], public_key: Path) -> None:
    """Print what a certificate that was checked claims."""
    from primum import verification

    pem = files.text(public_key, "public key")
    for line in _claim_lines(verification.open_certificate(envelope, pem)):
        print(line)


def show(
    file: Annotated[Path, typer.Argument(help="The certificate.")],
    output: Annotated[
        Output, typer.Option("--output", "-o", help="table, json or yaml.")
    ] = Output.YAML,
) -> None:
    """Print the statement inside a certificate, without checking it.

    Example: primum certificate show .primum/certificates/malignancy-1.json
    """
    from primum.entrypoints.cli import rendering

    statement = statement_of(files.json_object(file, "certificate"), str(file))
    rendering.structured(statement, Output.YAML if output is Output.TABLE else output)


def statement_of(envelope: Mapping[str, Any], where: str) -> Any:
    """The statement inside a certificate, unchecked.

    Raises:
        Tampered: If it is no envelope.
    """
    import base64
    import json

    from primum.domain.errors import Tampered

    try:
        return json.loads(base64.b64decode(str(envelope["payload"]), validate=True))
    except (KeyError, ValueError):
        raise Tampered(
            f"certificate {where} must be a signed envelope; found another form"
        ) from None


def _revoked_here(envelope: Mapping[str, Any]) -> bool:
    """Whether the platform of this folder, if there is one, has withdrawn the certificate."""
    from primum.adapters.serving import is_revoked
    from primum.entrypoints import bootstrap, settings

    return is_revoked(bootstrap.serving_registry(settings.from_environment()), envelope)


def _claim_lines(statement: Mapping[str, Any]) -> list[str]:
    """What a verified certificate claims, for people; a Void claim with what made it so."""
    from primum.domain.governance.headlines import spoken

    claim = statement["predicate"]["claim"]
    if claim["status"] != "Valid":
        return [
            "claim Void: no privacy is promised about this artifact",
            *(f"  {edge}" for edge in claim["voidEdges"]),
        ]
    lines = [f"claim Valid: {claim['variant']}, unit {claim['unit']}, {claim['neighbors']}"]
    for item in claim["parameters"]:
        where = f" of {item['budget']}" if "budget" in item else ""
        lines.append(
            f"  {spoken(item['scope'])}{where}: epsilon {item['epsilon']}, delta {item['delta']}"
        )
    return lines

"""``primum audit``.

Attack a released artifact again, and read what audits found, as far as a role may.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from primum.entrypoints.cli.rendering import Output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from primum.application.audit_costs import AuditCost
    from primum.application.audit_history import AuditResult
    from primum.application.ports import EvidenceStore
    from primum.application.reaudits import AuditSet
    from primum.entrypoints.settings import Settings
    from primum.resources.stored import StoredResource

_INSIDE = "Restricted figures are shown because you hold the role auditor or steward."


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Membership and reconstruction audits.", no_args_is_help=True)
    group.command("run")(run)
    group.command("show")(show)
    group.command("history")(history)
    group.command("shadows")(shadows_)
    app.add_typer(group, name="audit")


def run(
    study: Annotated[str, typer.Argument(help="The Study whose artifact is attacked.")],
    attack: Annotated[
        str, typer.Option("--attack", help="A registered attack, such as OneRunCanary or LiRA.")
    ],
    kind: Annotated[
        str, typer.Option("--kind", help="Membership or Reconstruction.")
    ] = "Membership",
    canaries: Annotated[int, typer.Option("--canaries", help="Planted canaries to evaluate.")] = 0,
    shadows: Annotated[int, typer.Option("--shadows", help="Shadow models to train.")] = 0,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace.")] = "",
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait at most.")] = 3600.0,
    deadline: Annotated[
        int, typer.Option("--deadline", help="Seconds after which it is stopped; 0: six hours.")
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost, and run nothing.")
    ] = False,
) -> None:
    """Run one audit as an AuditRun and wait for its verdict; exit 3 unless it is Pass.

    Refused, exit 3, where its estimated cost exceeds its deadline.

    Example: primum audit run malignancy --attack LiRA --shadows 64
    """
    from primum.domain.names import ResourceKey
    from primum.entrypoints.cli import applying, session

    check_attack("--attack", attack)
    settings = session.existing()
    stores = session.open_stores(settings)
    subject = session.only_namespace(stores.resources, "Study", study, namespace)
    body = audit_run(
        subject.namespace,
        study,
        attack=attack,
        kind=kind,
        canaries=canaries,
        shadows=shadows,
        deadline=deadline,
    )
    refuse_too_long(settings, stores.resources.get(subject), body)
    if dry_run:
        return
    key = ResourceKey("AuditRun", subject.namespace, body["metadata"]["name"])
    stored, _ = stores.resources.apply(key, body["spec"], labels={})
    raise typer.Exit(applying.follow_all(settings, stores, [stored], timeout=timeout, quiet=False))


def audit_run(
    namespace: str,
    study: str,
    *,
    attack: str,
    kind: str,
    canaries: int,
    shadows: int,
    deadline: int = 0,
) -> dict[str, Any]:
    """An AuditRun that breaks no rule, under a name of its own.

    Raises:
        InvalidValue: If it would break one.
    """
    import secrets

    from primum.resources.loading import checked_resource

    audit: dict[str, object] = {"kind": kind, "attack": attack}
    audit |= {
        name: value for name, value in (("canaries", canaries), ("shadows", shadows)) if value
    }
    name = f"{study[:40]}-{attack.lower()[:12]}-{secrets.token_hex(4)}"
    body: dict[str, Any] = {
        "apiVersion": "primum.dev/v1alpha1",
        "kind": "AuditRun",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"study": study, "audit": audit},
    }
    if deadline:
        body["spec"]["activeDeadlineSeconds"] = deadline
    checked_resource(body)
    return body


def refuse_too_long(settings: Settings, study: StoredResource, body: Mapping[str, Any]) -> None:
    """Print what an AuditRun would cost; what cannot end before its deadline is not begun.

    Raises:
        Refused: If its estimate exceeds its deadline.
        NotFound: If the Study has no plan yet.
    """
    from primum import extensions
    from primum.application import audit_costs
    from primum.domain.errors import NotFound, Refused
    from primum.domain.study.spec import AuditSpec
    from primum.entrypoints import bootstrap
    from primum.resources import conversion
    from primum.resources.stored import unstored

    platform = bootstrap.platform(settings)
    spec = conversion.study_spec(study)
    plan = platform.evidence.plan(spec.uid, spec.generation)
    if plan is None:
        raise NotFound(f"{spec.key} has no plan: it has not been launched")
    run = conversion.audit_run_spec(unstored(spec.key, body["spec"]))
    asked = AuditSpec(run.audit.kind.value, run.audit.attack, run.audit.settings())
    trial = extensions.load("primum.step_runtime", "estimate_audits")
    costs = audit_costs.audit_costs(platform, spec, plan, [asked], trial=trial)
    print("\n".join(cost_lines(costs)))
    problems = audit_costs.too_long(costs, seconds=run.active_deadline_seconds)
    if problems:
        raise Refused(" ".join(problems))


def cost_lines(costs: Sequence[AuditCost]) -> list[str]:
    """Costs for people."""
    lines = []
    for item in costs:
        if item.seconds is None:
            lines.append(f"{item.attack}: cost {item.method}")
            continue
        memory = f", about {item.memory_bytes / 2**20:.0f} MiB" if item.memory_bytes else ""
        gpu = "" if item.gpu_seconds is None else f", {item.gpu_seconds} GPU s"
        error = f"; within a factor of {item.error_factor}" if item.error_factor else ""
        shared = f", {item.elapsed} s on {item.cpus} CPUs" if item.cpus > 1 else ""
        spent = f"{item.seconds} CPU s{shared}{gpu}{memory}"
        lines.append(f"{item.attack}: {spent} ({item.method}{error})")
    return lines


def check_attack(field: str, attack: str) -> None:
    """Refuse an attack that is not installed before anything is stored.

    Raises:
        InvalidValue: If there is none of that name; lists those that are.
    """
    from primum import extensions
    from primum.domain.errors import InvalidValue
    from primum.resources.wording import nearest

    known = extensions.names("primum.audits")
    if attack not in known:
        rule = f"must be one of {', '.join(known)}"
        raise InvalidValue(field, rule, attack, nearest(attack, known))


def show(
    study: Annotated[str, typer.Argument(help="The Study.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace.")] = "",
    output: Annotated[
        Output, typer.Option("--output", "-o", help="table, json or yaml.")
    ] = Output.TABLE,
) -> None:
    """Show a Study's evidence: verdicts for everybody, figures for stewards and auditors.

    Example: primum audit show malignancy -o yaml
    """
    from primum.adapters.identity import Role, caller
    from primum.entrypoints.cli import rendering, session

    settings = session.existing()
    stores = session.open_stores(settings)
    key = session.only_namespace(stores.resources, "Study", study, namespace)
    stored = stores.resources.get(key)
    inside = caller(settings.home, settings.token).holds(Role.STEWARD, Role.AUDITOR)
    found = stores.evidence.evidence(stored.uid, stored.generation)
    if output is Output.TABLE:
        rows = [
            [e.kind.value, e.name, e.verdict.value if e.verdict else "-", e.digest[7:19]]
            for e in found
        ]
        rendering.table(["kind", "name", "verdict", "digest"], rows)
        _show_again(stores, stored, inside=inside)
        return
    documents = []
    for item in found:
        value = item.to_json() | {"digest": item.digest}
        if not inside:
            value.pop("restricted")
        documents.append(value)
    rendering.structured(documents, output)


def history(
    release: Annotated[str, typer.Argument(help="The Release's name.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace.")] = "",
    output: Annotated[
        Output, typer.Option("--output", "-o", help="table, json or yaml.")
    ] = Output.TABLE,
) -> None:
    """Show every audit of a release since it was released, and every due time that was missed.

    Verdicts and comparisons for everybody; the compared figures for stewards and auditors.

    Example: primum audit history malignancy
    """
    from primum.adapters.identity import Role, caller
    from primum.application import audit_history, reaudits
    from primum.entrypoints.cli import rendering, session

    settings = session.existing()
    stores = session.open_stores(settings)
    key = session.only_namespace(stores.resources, "Release", release, namespace)
    inside = caller(settings.home, settings.token).holds(Role.STEWARD, Role.AUDITOR)
    subject = audit_history.release_subject(key.namespace, key.name)
    found = audit_history.results(stores.evidence, subject)
    sets = reaudits.audit_sets(stores.evidence, key)
    if output is not Output.TABLE:
        documents = [_document(stores.evidence, item, inside=inside) for item in found]
        missed = [item.to_json() for item in sets if item.missed]
        rendering.structured({"release": str(key), "audits": documents, "missed": missed}, output)
        return
    _results_table(stores.evidence, found, inside=inside)
    for line in _missed(sets):
        print(line)


def _show_again(stores: Any, study: Any, *, inside: bool) -> None:
    """What AuditRuns found since, under a Study's own evidence."""
    from primum.application import audit_history
    from primum.resources import conversion

    subject = audit_history.study_subject(conversion.study_spec(study))
    found = audit_history.results(stores.evidence, subject)
    if found:
        print("\naudited again")
        _results_table(stores.evidence, found[-10:], inside=inside)


def _results_table(evidence: EvidenceStore, found: Any, *, inside: bool) -> None:
    from primum.entrypoints.cli import rendering

    headers = ["when", "attack", "why", "verdict", "compared", "auditrun"]
    rows = [
        [
            f"{item.at[:16].replace('T', ' ')} UTC",
            item.attack,
            ",".join(item.causes) or "asked for",
            item.verdict if item.reason.startswith(("Audit", "Claim")) else item.reason,
            item.comparison,
            item.run,
            *([_interval(evidence, item)] if inside else []),
        ]
        for item in found
    ]
    rendering.table([*headers, "figure"] if inside else headers, rows)
    if inside and rows:
        print(_INSIDE)


def _interval(evidence: EvidenceStore, item: AuditResult) -> str:
    from primum.application.audit_history import attack_evidence
    from primum.domain.governance.regression import figure

    records = tuple(evidence.evidence(item.uid, item.generation))
    found = figure(attack_evidence(records, item.attack))
    return f"{found.name} {found.lower:.3f}-{found.upper:.3f}" if found else "-"


def _document(evidence: EvidenceStore, item: AuditResult, *, inside: bool) -> dict[str, Any]:
    document: dict[str, Any] = item.to_json()
    if inside:
        document["restricted"] = {
            record.name: dict(record.restricted)
            for record in evidence.evidence(item.uid, item.generation)
        }
    return document


def _missed(sets: tuple[AuditSet, ...]) -> list[str]:
    return [
        f"missed: {item.missed} due {'time' if item.missed == 1 else 'times'} up to "
        f"{item.last_missed[:16].replace('T', ' ')} UTC"
        for item in sets
        if item.missed
    ]


def shadows_(
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=0, help="Keep them up to that many MiB; 0: none, the default."),
    ] = None,
) -> None:
    """Keep shadow models in the zone for the next audit, or see what is kept. Only a steward may.

    They were trained on private records without a charge, and are as private as those. Unless a
    steward says otherwise they end with the audit that trained them.

    Example: primum audit shadows --keep 512
    """
    from primum import extensions
    from primum.adapters.identity import Role, caller
    from primum.domain.errors import Refused
    from primum.entrypoints import bootstrap
    from primum.entrypoints.cli import session

    settings = session.existing()
    who = caller(settings.home, settings.token)
    if not who.holds(Role.STEWARD):
        raise Refused(f"audit shadows needs the role steward; {who.name} does not hold it")
    zone = str(bootstrap.zone_folder(settings))
    if keep is not None:
        extensions.load("primum.step_runtime", "shadows_keep")(zone, keep * 2**20)
    found = extensions.load("primum.step_runtime", "shadows_kept")(zone)
    used = f"{found['files']} sets of shadows, {found['bytes'] / 2**20:.1f} MiB"
    limit = f"kept up to {found['limit'] / 2**20:.0f} MiB" if found["limit"] else "none are kept"
    print(f"{used}; {limit}")

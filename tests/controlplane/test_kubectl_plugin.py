"""``kubectl primum`` as people use it: real kubectl, API server, ledger API, and several roles.

The ledger API is its real process; requests go to it through the API server's proxy of Services,
as from a laptop. What it tells about was made by an operator before.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

import helm
import pytest
import yaml
from clinic import Clinic
from manifests import BUDGET, STUDY, manifest, path

from primum.adapters.kube.api import KubeApi
from primum.adapters.kube.resources import KubeResourceStore
from primum.adapters.sql import open_stores
from primum.adapters.system import SystemClock
from primum.application import audit_history, budgets
from primum.application.observing import CERTIFICATE
from primum.domain.budget.entries import ReserveRequest
from primum.domain.names import ResourceKey
from primum.entrypoints import bootstrap, settings
from primum.entrypoints.cli.exits import Exit

ACCOUNTS = ("scientist", "auditor", "compliance", "nobody")
RBAC = "/apis/rbac.authorization.k8s.io/v1"
# Connections of the operator that ended are closed by nobody.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def address():
    """An address of this machine that an API server's proxy dials: never a loopback one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # Sends nothing; it names the way there.
            return probe.getsockname()[0]
        except OSError:
            pytest.skip("this machine has only loopback, which API servers do not proxy to")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(prefix="primum-plugin-") as made:
        yield pathlib.Path(made)


@pytest.fixture(scope="module")
def hospital(control_plane, folder, with_chart):
    """A released Study, its ledger and evidence in a database, and accounts with one role each."""
    api, namespace = control_plane.api, "kubectl-plugin"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    api.post("/api/v1/namespaces", body)
    clinic = Clinic(control_plane, namespace)
    with clinic.working():
        clinic.budget()
        uid = clinic.study()
        clinic.wait_ended("one")
        clinic.wait(lambda: clinic.shown("Release", "risk", "Ready") == "True Serving")
    _register(control_plane, namespace, folder)
    (folder / "public.pem").write_text(clinic.platform.signer.public_key(), encoding="utf-8")
    _keep(clinic, uid, f"sqlite:///{folder / 'primum.db'}")
    values = "kubectl.enabled=true,api.tls.hosts={localhost}"
    with with_chart(api, namespace, "--set", values) as manifests:
        _keep_certificate(manifests, folder)
        for item in manifests:
            if item["kind"] == "ConfigMap" and item["metadata"]["name"] == "primum-ledger-api":
                where = f"/api/v1/namespaces/{helm.NAMESPACE}/configmaps"
                api.delete(f"{where}/primum-ledger-api")
                api.post(where, item)
        for name in ACCOUNTS:
            account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
            api.post(f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
        for name in ("scientist", "auditor", "compliance"):
            _bind(api, namespace, name, f"primum-{name}")
            _bind(api, "", name, f"primum-api-{name}", subject=namespace)
        yield clinic
        for name in ("scientist", "auditor", "compliance"):
            api.delete(f"{RBAC}/clusterrolebindings/plugin-{name}")


def _keep_certificate(manifests, folder):
    """The certificate that the chart made, as the API's pod finds it, and its authority."""
    (secret,) = (i for i in manifests if i["metadata"]["name"] == "primum-api-tls")
    (folder / "tls").mkdir()
    for name, text in secret["data"].items():
        (folder / "tls" / name).write_bytes(base64.b64decode(text))


def _register(control_plane, namespace, folder):
    """A budget of a real dataset, in the database and in the API server."""
    named = {"PRIMUM_HOME": str(folder), "PRIMUM_DATABASE_URL": f"sqlite:///{folder}/primum.db"}
    found = settings.from_environment(named)
    bootstrap.prepare_home(found)
    api = KubeApi(control_plane.kubeconfig)
    resources = KubeResourceStore(api, namespaces=(namespace,))
    platform = dataclasses.replace(bootstrap.platform(found), resources=resources)
    where = path("PrivacyBudget", namespace)
    control_plane.api.post(where, manifest("PrivacyBudget", "wisconsin", BUDGET))
    key = ResourceKey("PrivacyBudget", namespace, "wisconsin")
    budgets.reconcile_budget(platform, resources.get(key))
    api.close()


def _keep(clinic, uid, url):
    """What the operator wrote in memory, in a database that the API reads."""
    kept = open_stores(url, SystemClock())
    plan = clinic.evidence.plan(uid, 1)
    for view in clinic.ledger.accounts():
        kept.ledger.open_account(view.terms, actor="test")
    for held in clinic.ledger.reservations(study_uid=uid):
        request = ReserveRequest(
            reservation_id=held.reservation_id,
            account_id=held.account_id,
            study_uid=uid,
            generation=held.generation,
            study=held.study,
            purpose=held.purpose,
            requester=held.requester,
            group=held.group,
            event=held.event,
            blocks=held.blocks,
            unit=plan.unit,
            neighbors=plan.neighbors,
        )
        kept.ledger.reserve([request], lease_seconds=900, actor="test")
        fence = kept.ledger.reservation(held.reservation_id).fence
        kept.ledger.expose(held.reservation_id, access="train", fence=fence, actor="test")
        kept.ledger.charge(held.reservation_id, executed=None, reason="done", actor="test")
    for (kind, key), body in clinic.evidence._facts.items():
        kept.evidence.put_fact(kind, key, json.loads(body))
    kept.evidence.put_plan(plan)
    found = clinic.evidence.dossier(uid, 1, facts={})
    first = next(iter(found.outcomes.values()))
    kept.evidence.record(first, found.evidence, study_uid=uid, generation=1)


def _bind(api, namespace, account, role, *, subject=""):
    where = f"{RBAC}/namespaces/{namespace}/rolebindings" if namespace else ""
    kind = "RoleBinding" if namespace else "ClusterRoleBinding"
    subjects = [
        {"kind": "ServiceAccount", "name": account, "namespace": namespace or subject},
    ]
    api.post(
        where or f"{RBAC}/clusterrolebindings",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": f"plugin-{account}"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": role,
            },
            "subjects": subjects,
        },
    )


@pytest.fixture(scope="module")
def ledger_api(control_plane, hospital, folder):
    """The API's own process under its own account, and the Service that leads to it."""
    host, port = address(), free_port()
    token = control_plane.token(helm.NAMESPACE, "primum-api")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("PRIMUM_")},
        "PRIMUM_HOME": str(folder),
        "PRIMUM_DATABASE_URL": f"sqlite:///{folder / 'primum.db'}",
        "PRIMUM_HOST": "0.0.0.0",
        "PRIMUM_API_PORT": str(port),
    }
    config = control_plane.kubeconfig_of("plugin-api", token)
    command = [sys.executable, "-m", "primum.entrypoints.api", "--cluster"]
    command.append(f"--certificates={folder / 'tls'}")
    (folder / "keys").mkdir(exist_ok=True)
    with (folder / "api.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--kubeconfig={config}"], env=environment, stdout=log, stderr=log
        )
    services = f"/api/v1/namespaces/{helm.NAMESPACE}"
    api, named = control_plane.api, {"name": "primum-api"}
    ports = [{"name": "api", "port": 8399, "targetPort": port}]
    api.post(f"{services}/services", {"metadata": named, "spec": {"ports": ports}})
    _lead_to(api, services, host, port)
    try:
        end = time.monotonic() + 120
        while not _answers(f"https://localhost:{port}/readyz", folder / "tls" / "ca.crt"):
            said = (folder / "api.log").read_text(errors="replace")
            assert process.poll() is None, said
            assert time.monotonic() < end, said
            time.sleep(0.2)
        yield f"https://localhost:{port}"
    finally:
        process.terminate()
        process.wait(60)
        for plural in ("services", "endpoints", "pods"):
            api.delete(f"{services}/{plural}/primum-api")


def _lead_to(api, where, host, port):
    """Endpoints of the Service, with the pod that API servers insist on."""
    named = {"name": "primum-api", "namespace": helm.NAMESPACE}
    container = {"name": "api", "image": "registry.example.org/primum/api"}
    api.post(f"{where}/pods", {"metadata": named, "spec": {"containers": [container]}})
    running = {"status": {"phase": "Running", "podIP": host, "podIPs": [{"ip": host}]}}
    api.merge(f"{where}/pods/primum-api/status", running)
    address = {"ip": host, "targetRef": {"kind": "Pod", **named}}
    subset = {"addresses": [address], "ports": [{"name": "api", "port": port}]}
    api.post(f"{where}/endpoints", {"metadata": named, "subsets": [subset]})


def _answers(url, authority):
    context = ssl.create_default_context(cafile=authority)
    try:
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def plugin(control_plane, hospital, folder):
    """A function that runs ``kubectl primum`` as somebody; gives status, output and complaints."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "kubectl").symlink_to(control_plane.assets["kubectl"])
    own = programs / "kubectl-primum"
    program = "from primum.entrypoints.cli.kubectl import main; main()"
    own.write_text(f"#!{sys.executable}\n{program}\n", encoding="utf-8")
    own.chmod(0o755)
    configs = {
        name: control_plane.kubeconfig_of(
            f"plugin-{name}", control_plane.token(hospital.namespace, name)
        )
        for name in ACCOUNTS
    }
    configs["admin"] = control_plane.kubeconfig

    def call(who, *arguments, text="", **environment):
        done = subprocess.run(
            ["kubectl", "primum", *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={
                "PATH": f"{programs}:{os.environ['PATH']}",
                "HOME": str(folder),
                "KUBECONFIG": configs.get(who, who),
                **environment,
            },
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture(scope="module")
def ask(plugin, ledger_api, hospital):
    """The plugin in the hospital's namespace, with a ledger API that answers."""
    return lambda who, *rest, **more: plugin(who, *rest, "-n", hospital.namespace, **more)


def good(answer):
    code, said, complaints = answer
    assert code == 0, (said, complaints)
    return said


def test_the_ledger_is_asked_through_the_api_server_as_the_kubeconfigs_user(ask):
    said = good(ask("auditor", "ledger", "accounts"))
    assert said.splitlines()[0].split()[:3] == ["DATASETURI", "UNIT", "POLICY"]
    assert "sim://scans" in said
    accounts = json.loads(good(ask("scientist", "ledger", "accounts", "-o", "json")))
    assert {account["unit"] for account in accounts} == {"Patient"}
    assert yaml.safe_load(good(ask("auditor", "ledger", "accounts", "-oyaml"))) == accounts
    assert good(ask("auditor", "ledger", "verify")).startswith("intact: ")


def test_questions_name_a_budget_of_the_namespace(ask):
    shares = json.loads(good(ask("auditor", "ledger", "spending", "scans", "-o", "json")))
    assert [share["charges"] for share in shares["shares"]] == [1]
    points = json.loads(good(ask("scientist", "ledger", "burndown", "scans", "-o", "json")))
    assert points["accountId"] == shares["accountId"]
    by_id = good(ask("scientist", "ledger", "burndown", points["accountId"], "-o", "json"))
    assert json.loads(by_id) == points
    assert "block whole" in good(ask("scientist", "ledger", "burndown", "scans"))
    assert "block whole" in good(ask("scientist", "ledger", "forecast", "scans"))
    assert good(ask("auditor", "ledger", "refusals")) == "nothing found\n"
    assert good(ask("auditor", "ledger", "reservations", "scans")) == "nothing found\n"
    listed = good(ask("auditor", "ledger", "entries", "--limit", "2"))
    assert len(listed.splitlines()) == 3


def test_a_role_sees_what_it_may_and_no_more(ask):
    code, said, complaints = ask("scientist", "ledger", "entries")
    assert (code, said) == (Exit.REFUSED, "")
    assert "needs one of the roles compliance, steward, auditor" in complaints
    code, _, complaints = ask("nobody", "ledger", "accounts")
    assert code == Exit.REFUSED
    assert "must be somebody's" in complaints
    code, _, complaints = ask("nobody", "explain", "study/one")
    assert code == Exit.REFUSED
    assert "cannot get resource" in complaints
    figures = json.loads(good(ask("auditor", "audit", "show", "one", "-o", "json")))
    hidden = json.loads(good(ask("scientist", "audit", "show", "study/one", "-o", "json")))
    assert any(item["restricted"] for item in figures)
    assert not any(item["restricted"] for item in hidden)
    assert [item["digest"] for item in figures] == [item["digest"] for item in hidden]


def test_a_quote_of_a_study_spends_nothing_and_says_whether_it_fits(ask):
    spec = {**STUDY}
    spec["privacy"] = {"epsilon": "0.5", "delta": "1e-5"}
    text = json.dumps(manifest("Study", "new", spec))
    said = good(ask("scientist", "quote", "-f", "-", text=text))
    assert said.startswith("Study kubectl-plugin/new\n")
    assert "epsilon" in said
    spec["privacy"]["epsilon"] = "9.5"
    text = json.dumps(manifest("Study", "large", spec))
    code, said, _ = ask("scientist", "quote", "-f", "-", "-o", "json", text=text)
    assert code == Exit.REFUSED
    assert json.loads(said)[0]["fits"] == "No"
    spec["data"] = [{"role": "Private", "budget": "none"}]
    text = json.dumps(manifest("Study", "lost", spec))
    code, said, _ = ask("scientist", "quote", "-f", "-", text=text)
    assert code == Exit.REFUSED
    assert "found none, which does not exist" in said


def test_explain_says_how_far_a_resource_got_and_why_no_further(ask, hospital):
    said = good(ask("scientist", "explain", "study", "one"))
    assert said.startswith("Study kubectl-plugin/one: Succeeded True, Done\n")
    assert "yes  Released" in said
    assert good(ask("scientist", "explain", "release/risk")).startswith("Release ")
    hospital.api.merge(
        f"/apis/primum.dev/v1alpha1/namespaces/{hospital.namespace}/studies/one/status",
        {"status": {"conditions": [WAITING]}},
    )
    said = good(ask("scientist", "explain", "study/one"))
    assert f"because: {WAITING['message']}" in said
    told = json.loads(good(ask("scientist", "explain", "study/one", "-o", "json")))
    assert told["hindrance"] == WAITING["message"]


WAITING = {
    "type": "Planned",
    "status": "False",
    "reason": "BudgetNotFound",
    "message": "spec.data must name a PrivacyBudget of namespace a; found b. Apply it.",
    "lastTransitionTime": "2026-11-22T12:00:00Z",
    "observedGeneration": 1,
}


def test_a_certificate_is_shown_kept_and_verified_with_a_key_from_elsewhere(ask, folder, hospital):
    statement = yaml.safe_load(good(ask("scientist", "certificate", "show", "risk")))
    assert statement["predicate"]["claim"]["status"] == "Valid"
    envelope = json.loads(good(ask("scientist", "certificate", "get", "release/risk")))
    ((_, kept),) = hospital.evidence.facts(CERTIFICATE)
    assert envelope == kept["envelope"]
    key = ("--public-key", str(folder / "public.pem"))
    said = good(ask("scientist", "certificate", "verify", "risk", *key))
    assert "valid: release risk holds" in said
    other = ("--public-key", str(folder / "other.pem"))
    from primum import signing

    (folder / "other.pem").write_text(signing.generate()[1], encoding="utf-8")
    assert ask("scientist", "certificate", "verify", "risk", *other)[0] == Exit.TAMPERED
    code, _, complaints = ask("scientist", "certificate", "show", "none")
    assert code == Exit.NOT_FOUND
    assert "has no certificate" in complaints


def test_an_audit_is_declared_by_who_may(ask, hospital):
    run = ("audit", "run", "one", "--attack", "LiRA", "--shadows", "16", "--timeout", "0")
    code, _, complaints = ask("scientist", *run)
    assert code == Exit.REFUSED
    assert "cannot create resource" in complaints
    said = good(ask("auditor", *run))
    name = said.split()[0].removeprefix("auditrun/")
    assert hospital.get("AuditRun", name)["spec"]["audit"]["attack"] == "LiRA"
    wrong = ("audit", "run", "one", "--attack", "LiRA", "--kind", "Nothing")
    assert ask("auditor", *wrong)[0] == Exit.INVALID


def test_what_audits_found_is_told_as_far_as_a_role_reaches(ask, hospital, folder):
    subject = audit_history.release_subject(hospital.namespace, "risk")
    told = {
        "uid": "audit-uid",
        "generation": 1,
        "run": "again",
        "attack": "LiRA",
        "settings": "sha256:0",
        "causes": [],
        "verdict": "Pass",
        "reason": "AuditsPassed",
        "comparison": "FirstRun",
        "before": "",
        "model": "",
        "seconds": "1",
        "at": "2026-03-01T00:00:00.000000Z",
    }
    stores = open_stores(f"sqlite:///{folder / 'primum.db'}", SystemClock())
    stores.evidence.put_fact(f"AuditResult {subject}", "audit-uid/1", told)
    stores.close()
    said = good(ask("scientist", "audit", "history", "release/risk"))
    assert said.splitlines()[1].split() == [
        *("2026-03-01", "00:00", "UTC", "LiRA", "asked", "for", "Pass", "FirstRun", "again"),
    ]
    assert "FIGURE" in good(ask("auditor", "audit", "history", "risk"))
    assert good(ask("scientist", "audit", "history", "risk", "-o", "name")) == (
        "auditrun.primum.dev/again\n"
    )
    found = json.loads(good(ask("scientist", "audit", "history", "risk", "-o", "json")))
    assert found["audits"][0]["figure"] is None
    assert ask("scientist", "audit", "history", "none")[0] == Exit.NOT_FOUND


def test_names_are_printed_as_kubectl_prints_them(ask, hospital):
    assert good(ask("scientist", "explain", "study", "one", "-o", "name")) == (
        "study.primum.dev/one\n"
    )
    ids = good(ask("auditor", "ledger", "accounts", "-o", "name")).split()
    assert len(ids) == len(set(ids)) == 2
    assert "block whole" in good(ask("auditor", "ledger", "forecast", ids[0]))
    assert good(ask("auditor", "ledger", "reservations", "scans", "-o", "name")) == ""
    run = ("audit", "run", "one", "--attack", "LiRA", "--timeout", "0", "-o", "name")
    said = good(ask("auditor", *run)).strip()
    assert hospital.get("AuditRun", said.removeprefix("auditrun.primum.dev/"))
    made = json.loads(good(ask("auditor", *run[:-1], "json")))
    assert made["kind"] == "AuditRun"


def test_only_compliance_takes_a_release_back_and_sees_it_stop(ask, hospital):
    spec = hospital.get("Release", "risk")["spec"]
    spec |= {"endpoint": "old"} if "endpoint" in spec else {}
    hospital.api.post(path("Release", hospital.namespace), manifest("Release", "old", spec))
    revoke = ("revoke", "release/old", "--reason", "a complaint")
    code, _, complaints = ask("scientist", *revoke)
    assert code == Exit.REFUSED
    assert "cannot patch resource" in complaints
    assert not hospital.get("Release", "old")["spec"].get("revocation")
    assert ask("compliance", *revoke[:-1], " ")[0] == Exit.INVALID
    code, said, _ = ask("compliance", *revoke, "--timeout", "1")
    assert code == Exit.TIMED_OUT
    assert "was not seen to have stopped" in said
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "Revoked",
        "message": "a complaint",
        "observedGeneration": 2,
        "lastTransitionTime": "2026-03-01T00:00:00Z",
    }
    where = path("Release", hospital.namespace, "old")
    ending = {**ready, "message": "Not down yet: it is being taken down. a complaint"}
    hospital.api.merge(f"{where}/status", {"status": {"conditions": [ending]}})
    code, said, _ = ask("compliance", *revoke, "--timeout", "1")
    assert code == Exit.TIMED_OUT
    assert "was not seen to have stopped" in said
    hospital.api.merge(f"{where}/status", {"status": {"conditions": [ready]}})
    said = good(ask("compliance", "revoke", "old", "--reason", "another reason"))
    assert said == (
        "release.primum.dev/old is revoked for good and not served any more: a complaint\n"
    )
    assert good(ask("compliance", *revoke, "-o", "name")) == "release.primum.dev/old\n"


def test_a_user_with_a_certificate_asks_as_an_account_whose_tokens_they_may_create(ask):
    code, _, complaints = ask("admin", "ledger", "accounts")
    assert code == Exit.REFUSED
    assert "--service-account NAMESPACE/NAME" in complaints
    account = ("--service-account", "kubectl-plugin/auditor")
    assert "sim://scans" in good(ask("admin", "ledger", "accounts", *account))
    code, _, complaints = ask("scientist", "ledger", "accounts", *account)
    assert code == Exit.REFUSED
    assert "serviceaccounts" in complaints


def test_acting_for_somebody_reaches_the_api_server_and_is_refused_for_the_ledger(ask):
    acting = ("--as=system:serviceaccount:kubectl-plugin:scientist",)
    assert good(ask("admin", "explain", "release/risk", *acting)).startswith("Release ")
    acting = ("--as", "system:serviceaccount:kubectl-plugin:nobody")
    assert ask("admin", "explain", "release/risk", *acting)[0] == Exit.REFUSED
    code, _, complaints = ask("auditor", "ledger", "accounts", *acting)
    assert code == Exit.REFUSED
    assert "not --as" in complaints


def test_a_login_plugin_of_the_kubeconfig_gives_the_token(ask, folder, control_plane, hospital):
    token = control_plane.token(hospital.namespace, "auditor")
    answer = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": token},
    }
    login = folder / "login.sh"
    login.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(answer)}\nEND\n", encoding="utf-8")
    login.chmod(0o755)
    config = yaml.safe_load(pathlib.Path(control_plane.kubeconfig).read_text())
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": str(login),
        "interactiveMode": "Never",
    }
    config["users"] = [{"name": "admin", "user": {"exec": plugin}}]
    config["contexts"][0]["context"]["namespace"] = hospital.namespace
    made = folder / "login.kubeconfig"
    made.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert "sim://scans" in good(ask(str(made), "ledger", "accounts"))
    login.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    code, _, complaints = ask(str(made), "ledger", "accounts")
    assert code == Exit.REFUSED
    assert "gave no token" in complaints


def test_the_contexts_own_namespace_is_the_default_one(plugin, ledger_api, control_plane, folder):
    text = pathlib.Path(control_plane.kubeconfig).read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    there = {"cluster": "test", "user": "admin", "namespace": "kubectl-plugin"}
    config["contexts"].append({"name": "there", "context": there})
    made = folder / "contexts.kubeconfig"
    made.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert plugin(str(made), "explain", "release/risk")[0] == Exit.NOT_FOUND
    assert plugin(str(made), "explain", "release/risk", "--context", "there")[0] == 0
    by_option = ("--kubeconfig", str(made), "--context=there")
    assert plugin("/nowhere", "explain", "release/risk", *by_option)[0] == 0


def test_an_address_of_its_own_is_asked_directly_and_checked(ask, ledger_api, folder):
    authority, asked = str(folder / "tls" / "ca.crt"), ("ledger", "accounts")
    by_option = ("--ledger", ledger_api, "--ledger-ca", authority)
    assert "sim://scans" in good(ask("auditor", *asked, *by_option))
    told = {"PRIMUM_LEDGER_URL": ledger_api, "PRIMUM_LEDGER_CA": authority}
    assert "sim://scans" in good(ask("auditor", *asked, **told))
    code, _, complaints = ask("auditor", *asked, "--ledger", ledger_api)
    assert code == Exit.UNAVAILABLE
    assert "did not answer" in complaints


def test_the_chart_says_where_the_api_is_and_whom_to_believe(
    ask, ledger_api, folder, control_plane
):
    where = f"/api/v1/namespaces/{helm.NAMESPACE}/configmaps/primum-ledger-api"
    said = control_plane.api.get(where)["data"]
    authority = (folder / "tls" / "ca.crt").read_text(encoding="utf-8")
    control_plane.api.merge(where, {"data": {"url": ledger_api, "ca.crt": authority}})
    try:
        assert "sim://scans" in good(ask("auditor", "ledger", "accounts"))
    finally:
        control_plane.api.merge(where, {"data": {"url": None, "ca.crt": None}})
    assert control_plane.api.get(where)["data"] == said


def test_a_dead_address_is_named(ask):
    code, _, complaints = ask("auditor", "ledger", "accounts", "--ledger", "http://127.0.0.1:9")
    assert code == Exit.UNAVAILABLE
    assert "did not answer" in complaints


def test_what_is_missing_is_said_in_one_sentence(ask):
    for who, arguments, code, words in (
        ("/nowhere", ("ledger", "accounts"), Exit.INVALID, "kubeconfig must name a context"),
        ("admin", ("explain", "study/x", "--context=no"), Exit.INVALID, "kubectl can use"),
        ("scientist", ("explain", "study/x"), Exit.NOT_FOUND, '"x" not found'),
        ("scientist", ("explain", "study/"), Exit.INVALID, "must be given"),
        ("scientist", ("explain", "stady/x"), Exit.INVALID, "Did you mean study?"),
        ("scientist", ("explain", "study/x", "--as"), Exit.INVALID, "--as must have a value"),
        ("scientist", ("certificate", "show", "study/x"), Exit.INVALID, "must be of a Release"),
        ("scientist", ("quote", "-f", "/nowhere.yaml"), Exit.NOT_FOUND, "/nowhere.yaml"),
        ("scientist", ("nothing",), Exit.INVALID, "--help"),
        ("scientist", ("ledger", "burndown", "none"), Exit.NOT_FOUND, '"none" not found'),
        (
            "scientist",
            ("ledger", "accounts", "--platform-namespace", "elsewhere"),
            Exit.NOT_FOUND,
            "kubectl.enabled",
        ),
    ):
        found, said, complaints = ask(who, *arguments)
        assert (found, words in complaints) == (code, True), (arguments, said, complaints)
        assert complaints.startswith("error: ")
        assert len(complaints.splitlines()) == 1


def test_an_api_server_that_is_away_is_named(plugin, control_plane, folder):
    config = yaml.safe_load(pathlib.Path(control_plane.kubeconfig).read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    made = folder / "away.kubeconfig"
    made.write_text(yaml.safe_dump(config), encoding="utf-8")
    code, _, complaints = plugin(str(made), "explain", "study/x")
    assert code == Exit.UNAVAILABLE
    assert "cannot be asked" in complaints


def test_a_service_without_pods_is_named(ask, control_plane):
    where = f"/api/v1/namespaces/{helm.NAMESPACE}/endpoints/primum-api"
    subsets = control_plane.api.get(where)["subsets"]
    control_plane.api.merge(where, {"subsets": []})
    try:
        code, _, complaints = ask("auditor", "ledger", "accounts")
        assert code == Exit.UNAVAILABLE
        assert "no endpoints available" in complaints
    finally:
        control_plane.api.merge(where, {"subsets": subsets})

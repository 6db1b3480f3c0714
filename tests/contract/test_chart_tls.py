"""The ledger API's certificate: made, given or issued, and checked by everybody who asks.

What the chart makes is served by the API's own server here, and asked as steps ask it.
"""

from __future__ import annotations

import base64
import re
import shutil
import ssl
import threading
from pathlib import Path
from typing import Any

import helm
import pytest
from api_platform import identify, make_platform
from helm import NAMESPACE
from kube_schemas import builtin_problems
from ledger_server import served
from simulated_tls import authority
from structlog.testing import capture_logs

from primum.adapters.identity import Role
from primum.adapters.ledger_api.client import LedgerApiClient
from primum.domain.errors import Unavailable
from primum.entrypoints.api.certificates import CERTIFICATE, PRIVATE_KEY, ServedCertificate
from primum_operators import settings as operator_settings

GOVERNED = ("--set", "governed.namespaces={oncology,radiology}")
WORKER = ("--set", f"images.worker.digest=sha256:{'5' * 64}")
HOST = f"primum-api.{NAMESPACE}.svc"

Manifest = dict[str, Any]


def one(manifests: tuple[Manifest, ...], kind: str, name: str) -> Manifest:
    (found,) = [i for i in manifests if i["kind"] == kind and i["metadata"]["name"] == name]
    return found


def environment(manifests: tuple[Manifest, ...], component: str) -> dict[str, str]:
    deployment = one(manifests, "Deployment", f"primum-{component}")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {item["name"]: item.get("value", "") for item in container["env"]}


def authorities(manifests: tuple[Manifest, ...]) -> dict[str, str]:
    """By namespace, what those who ask the API check it with."""
    return {
        item["metadata"]["namespace"]: item["data"]["ca.crt"]
        for item in manifests
        if item["kind"] == "ConfigMap" and item["metadata"]["name"] == "primum-ledger-ca"
    }


def test_a_made_certificate_is_known_wherever_the_api_is_asked_from() -> None:
    made = helm.rendered(*GOVERNED, *WORKER)
    secret = one(made, "Secret", "primum-api-tls")["data"]
    told = authorities(made)
    assert set(told) == {NAMESPACE, "oncology", "radiology"}
    assert {text.strip() for text in told.values()} == {
        base64.b64decode(secret["ca.crt"]).decode().strip()
    }
    assert "BEGIN PRIVATE" not in str(told)
    assert "BEGIN RSA" not in str(told)
    operator = environment(made, "operator")
    assert operator["PRIMUM_LEDGER_URL"] == f"https://{HOST}:8399"
    assert operator["PRIMUM_LEDGER_CA"] == "/etc/primum/ledger-ca/ca.crt"
    mine = {k: v for k, v in operator.items() if k.startswith("PRIMUM_OPERATOR_")}
    jobs = operator_settings.from_environment(mine).cluster.jobs
    assert (jobs.ledger_ca, jobs.ledger_url) == ("primum-ledger-ca", f"https://{HOST}:8399")
    api = one(made, "Deployment", "primum-api")["spec"]["template"]["spec"]
    (volume,) = [v for v in api["volumes"] if v["name"] == "tls"]
    assert [item["key"] for item in volume["secret"]["items"]] == ["tls.crt", "tls.key"]
    assert api["containers"][0]["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    for item in made:
        if item["kind"] in ("ConfigMap", "Secret"):
            assert builtin_problems(item) == []


def test_what_is_given_is_used_and_plain_http_has_to_be_asked_for() -> None:
    given = helm.rendered(
        *GOVERNED,
        *("--set", "api.tls.source=Secret,api.tls.secret=our-tls,governed.ledgerCa=our-ca"),
    )
    assert "our-tls" in str(one(given, "Deployment", "primum-api"))
    assert authorities(given) == {}
    assert "our-ca" in str(one(given, "Deployment", "primum-operator"))
    plain = helm.rendered(*GOVERNED, *WORKER, "--set", "api.tls.source=None")
    assert environment(plain, "operator")["PRIMUM_LEDGER_URL"].startswith("http://")
    assert "PRIMUM_LEDGER_CA" not in environment(plain, "operator")
    assert "--certificates" not in str(one(plain, "Deployment", "primum-api"))


def test_cert_manager_issues_for_every_name() -> None:
    issued = helm.rendered(
        *GOVERNED,
        *("--api-versions", "cert-manager.io/v1"),
        *("--set", "integrations.certManager.enabled=true,api.tls.source=CertManager"),
        *("--set", "governed.ledgerCa=ours,api.tls.hosts={ledger.hospital.example}"),
    )
    certificate = one(issued, "Certificate", "primum-api")["spec"]
    assert {HOST, "ledger.hospital.example"} <= set(certificate["dnsNames"])
    assert certificate["secretName"] in str(one(issued, "Deployment", "primum-api"))
    assert one(issued, "Issuer", "primum-api")
    assert not any(
        i["metadata"]["name"] == "primum-api-tls" for i in issued if i["kind"] == "Secret"
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("api.tls.source=CertManager", "integrations.certManager.enabled"),
        ("api.tls.source=Secret", "api.tls.secret must be set"),
        ("api.tls.secret=ours", "api.tls.secret must be set"),
        ("api.tls.source=Perhaps", "api/tls/source"),
        ("api.tlsSecret=ours", "tlsSecret"),
        (
            "api.tls.source=CertManager,integrations.certManager.enabled=true",
            "governed.ledgerCa must name a ConfigMap",
        ),
    ],
)
def test_half_of_a_certificate_is_refused(values: str, said: str) -> None:
    done = helm.template("--set", values, "--api-versions", "cert-manager.io/v1")
    assert done.returncode != 0
    assert said in done.stderr.replace(".", "/") or said in done.stderr


def test_prometheus_checks_it_too() -> None:
    made = helm.rendered(
        *("--api-versions", "monitoring.coreos.com/v1"),
        *("--set", "integrations.prometheus.enabled=true"),
    )
    (endpoint,) = one(made, "ServiceMonitor", "primum-api")["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["serverName"] == HOST
    assert endpoint["tlsConfig"]["ca"]["configMap"] == {"name": "primum-ledger-ca", "key": "ca.crt"}


@pytest.mark.parametrize(
    ("url", "known"),
    [("https://ledger.hospital.example:8399", True), ("https://proxy.example", False)],
)
def test_kubectl_is_told_the_authority_of_the_charts_own_certificate_alone(
    url: str, known: bool
) -> None:
    made = helm.rendered(
        *("--set", f"kubectl.enabled=true,kubectl.url={url}"),
        *("--set", "api.tls.hosts={ledger.hospital.example}"),
    )
    told = one(made, "ConfigMap", "primum-ledger-api")["data"]
    assert ("ca.crt" in told) is known
    assert told["service"].startswith("https:")


def test_those_who_ask_believe_the_made_certificate_and_no_other(tmp_path: Path) -> None:
    made = helm.rendered(*GOVERNED, *WORKER, "--set", "api.tls.hosts={localhost}")
    secret = one(made, "Secret", "primum-api-tls")["data"]
    for name in (CERTIFICATE, PRIVATE_KEY):
        (tmp_path / name).write_bytes(base64.b64decode(secret[name]))
    (tmp_path / "ca.crt").write_text(authorities(made)["oncology"], encoding="utf-8")
    other = authority(tmp_path / "other").authority
    options = {
        "ssl_certfile": str(tmp_path / CERTIFICATE),
        "ssl_keyfile": str(tmp_path / PRIVATE_KEY),
    }
    with served(make_platform(), identify, **options) as server:
        url = re.sub("127.0.0.1", "localhost", server.url)
        good = client(url, tmp_path / "ca.crt")
        assert good.ask("GET", "/v1/platform/public-key")["publicKey"].startswith("-----BEGIN")
        good.close()
        for bad in (
            client(url, other),
            client(url, ""),
            client(server.url, tmp_path / "ca.crt"),  # The address is no name of it.
        ):
            with pytest.raises(Unavailable):
                bad.ask("GET", "/v1/platform/public-key")


def client(url: str, authorities: Path | str) -> LedgerApiClient:
    return LedgerApiClient(
        url, lambda: Role.PLATFORM.value, ca_file=str(authorities), patience_seconds=0.0
    )


def test_a_renewed_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    first, second = authority(tmp_path / "first"), authority(tmp_path / "second")
    folder = tmp_path / "served"
    shutil.copytree(tmp_path / "first", folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / CERTIFICATE, folder / PRIVATE_KEY)
    kept = ServedCertificate(folder, context)
    shutil.copy(second.certificate, folder / CERTIFICATE)  # One of two is no pair.
    with capture_logs() as told:
        kept.look()
        assert told == []  # The other one may come in a moment.
        kept.look()
    assert [item["event"] for item in told] == ["certificate unusable"]
    assert shaken(context, first.authority)
    assert not shaken(context, second.authority)
    shutil.copy(second.key, folder / PRIVATE_KEY)
    kept.look()
    assert shaken(context, second.authority)
    stopped = threading.Event()
    thread = kept.keep(stopped)
    stopped.set()
    thread.join(30)
    assert not thread.is_alive()


def shaken(context: ssl.SSLContext, believed: Path) -> bool:
    """Whether somebody who believes an authority shakes hands with a server's context."""
    asking = ssl.create_default_context(cafile=str(believed))
    inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(inward, outward, server_side=True)
    caller = asking.wrap_bio(outward, inward, server_hostname="localhost")
    try:
        for _ in range(8):
            for side in (caller, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        return caller.cipher() is not None
    except ssl.SSLCertVerificationError:
        return False

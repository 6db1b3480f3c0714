"""A real Kubernetes control plane for tests: etcd, kube-apiserver and what else the assets hold.

Assets are found as everybody finds them, by ``KUBEBUILDER_ASSETS`` (``make kube-assets``), or in
``PRIMUM_TEST_ASSETS/kube-control-plane`` as compressed binaries. The CRD server of a newer
Kubernetes, ``apiextensions-apiserver``, is aggregated behind an older kube-apiserver where the
assets hold it; a controller manager runs where they hold one. Everything listens on loopback, with
certificates made for this run, and ends with it.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import http.client
import ipaddress
import json
import lzma
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from policy_shelf import PolicyShelf

REMEDY = (
    "run `make kube-assets` and set KUBEBUILDER_ASSETS to the folder it names, "
    "or have etcd on the PATH and PRIMUM_TEST_ASSETS set"
)
READY_SECONDS = 120
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
_NAMES = ("kube-apiserver", "kube-controller-manager", "apiextensions-apiserver")
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class MissingAssets(Exception):
    """Why there is no control plane here."""


def find_assets(cache: pathlib.Path) -> dict[str, pathlib.Path]:
    """Programs by name.

    Raises:
        MissingAssets: If etcd or kube-apiserver cannot be found.
    """
    found = {}
    told = os.environ.get("KUBEBUILDER_ASSETS")
    if told:
        folder = pathlib.Path(told)
        found = {p.name: p for p in folder.iterdir() if os.access(p, os.X_OK)}
    elif os.environ.get("PRIMUM_TEST_ASSETS"):
        packed = pathlib.Path(os.environ["PRIMUM_TEST_ASSETS"]) / "kube-control-plane"
        for name in _NAMES:
            archives = sorted(packed.glob(f"{name}-*.xz"))
            if archives:
                found[name] = _unpacked(archives[-1], cache / name, _sums(packed))
    fetched = pathlib.Path(sys.prefix) / "kube" / "kubectl"  # By make kube-tools.
    if "kubectl" not in found and os.access(fetched, os.X_OK):
        found["kubectl"] = fetched
    for name in ("etcd", "kubectl"):
        on_path = shutil.which(name)
        if name not in found and on_path:
            found[name] = pathlib.Path(on_path)
    missing = [name for name in ("etcd", "kube-apiserver") if name not in found]
    if missing:
        raise MissingAssets(f"no {' and no '.join(missing)}: {REMEDY}")
    return found


def _sums(folder: pathlib.Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def _unpacked(archive: pathlib.Path, target: pathlib.Path, sums: str) -> pathlib.Path:
    """The program, unpacked once and checked against the sums that came with it."""
    if not target.exists():
        body = lzma.decompress(archive.read_bytes())
        if hashlib.sha256(body).hexdigest() not in sums:
            raise MissingAssets(
                f"{archive.name} must have the SHA-256 of its README; found another"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        draft.write_bytes(body)
        draft.chmod(0o755)
        draft.replace(target)
    return target


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Authority:
    """A certificate authority of one test run."""

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = self._write(f"{name}.crt", self._signed(self._name, self._key, ca=True))

    def issue(self, name: str, organization: str = "") -> tuple[str, str]:
        """Certificate and key files of a server or client."""
        key = ec.generate_private_key(ec.SECP256R1())
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        if organization:
            parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
        file = name.replace(":", "-")
        certificate = self._write(f"{file}.crt", self._signed(x509.Name(parts), key, ca=False))
        return certificate, self._write(f"{file}.key", _pem(key))

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        if not ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, body: bytes) -> str:
        path = self._folder / name
        path.write_bytes(body)
        path.chmod(0o600)
        return str(path)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


class Api:
    """Plain HTTP to an API server; deliberately not the product's own client."""

    def __init__(self, url: str, ca: str, *, pair: tuple[str, str] | None = None, token: str = ""):
        self.url, self.ca, self.pair, self.token = url, ca, pair, token
        self._context = ssl.create_default_context(cafile=ca)
        if pair:
            self._context.load_cert_chain(*pair)

    def request(self, method, path, body=None, *, kind="application/json", as_user="", seconds=60):
        """Status code and JSON body of one request."""
        headers = {"Content-Type": kind, "Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if as_user:
            user, *groups = as_user.split(",")
            headers["Impersonate-User"] = user
            if groups:
                headers["Impersonate-Group"] = groups[0]
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(asked, context=self._context, timeout=seconds) as answer:
                return answer.status, _json(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _json(error.read())

    def get(self, path):
        """The object, or None where there is none."""
        code, body = self.request("GET", path)
        if code == 404:
            return None
        return _good(code, body, path)

    def post(self, path, body):
        """Create."""
        return _good(*self.request("POST", path, body), path)

    def create(self, path, body):
        """Create, or leave what is there."""
        code, answer = self.request("POST", path, body)
        return answer if code == 409 else _good(code, answer, path)

    def apply(self, path, body, manager="test"):
        """Server-side apply."""
        path = f"{path}?fieldManager={manager}&force=true"
        return _good(*self.request("PATCH", path, body, kind=APPLY), path)

    def merge(self, path, body):
        """Merge patch."""
        return _good(*self.request("PATCH", path, body, kind=MERGE), path)

    def wait_for_right(self, namespace, user, role):
        """Wait until the API server knows of a right that was just bound: it watches bindings."""
        rule = next(rule for rule in role["rules"] if rule.get("resources"))
        attributes = {
            "namespace": namespace,
            "group": rule["apiGroups"][0],
            "resource": rule["resources"][0].partition("/")[0],
            "subresource": rule["resources"][0].partition("/")[2],
            "verb": rule["verbs"][0],
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": attributes},
        }
        where = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        end = time.monotonic() + READY_SECONDS
        while not self.post(where, review)["status"]["allowed"]:
            if time.monotonic() > end:
                raise AssertionError(f"{user} never got {attributes}")
            time.sleep(0.1)

    def delete(self, path, policy="Background"):
        """Delete; nothing happens where there is nothing."""
        code, body = self.request("DELETE", path, {"propagationPolicy": policy})
        return body if code == 404 else _good(code, body, path)


def listed(api: Api, path: str) -> list:
    """Every object of a collection.

    Raises:
        OSError: If it is not served, as for a moment after a server's start.
    """
    found = api.get(path)
    if found is None:
        raise OSError(f"{path} is not served")
    return found["items"]


def _json(body: bytes):
    try:
        return json.loads(body) if body else {}
    except ValueError:
        return {"message": body.decode(errors="replace")}


def _good(code, body, path):
    if code >= 300:
        raise AssertionError(f"{path}: {code} {body.get('reason')} {body.get('message')}")
    return body


class ControlPlane:
    """etcd and API servers of one test session; ``stop`` ends them all."""

    def __init__(self, assets: dict[str, pathlib.Path], *, policies=()) -> None:
        """Nothing runs yet.

        Args:
            assets: Programs by name.
            policies: ValidatingAdmissionPolicies and bindings for the CRD server, which judges
                custom objects by them where it runs behind an older kube-apiserver.
        """
        self.assets = assets
        self._policies, self._shelf = tuple(policies), None
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="primum-kube-", dir=MEMORY))
        self._running: dict[str, subprocess.Popen] = {}
        self._ports = {name: _port() for name in ("etcd", "peer", "api", "extensions", "kcm")}
        self._authority = Authority(self.folder, "ca")
        self._server = self._authority.issue("localhost")
        self._front = self._authority.issue("front-proxy")
        admin = self._authority.issue("admin", "system:masters")
        self._accounts = str(self.folder / "accounts.key")
        pathlib.Path(self._accounts).write_bytes(_pem(ec.generate_private_key(ec.SECP256R1())))
        self.url = f"https://127.0.0.1:{self._ports['api']}"
        self.api = Api(self.url, self._authority.file, pair=admin)
        self.kubeconfig = self._kubeconfig(
            "admin", {"client-certificate": admin[0], "client-key": admin[1]}
        )
        self.started_seconds = 0.0

    @property
    def manages(self) -> bool:
        """Whether a controller manager runs: Jobs make pods, and garbage is collected."""
        return "kube-controller-manager" in self.assets

    @property
    def aggregates(self) -> bool:
        """Whether custom objects are served by the CRD server behind the kube-apiserver."""
        return "apiextensions-apiserver" in self.assets

    def start(self) -> None:
        """Start everything and wait until it serves."""
        began = time.monotonic()
        self._start_etcd()
        self.start_api()
        if self.aggregates:
            self._start_extensions()
        if self.manages:
            self._start_manager()
        self.started_seconds = time.monotonic() - began

    def stop(self) -> None:
        """End every process, etcd last, and remove the folder."""
        for name in ("kube-controller-manager", "apiextensions-apiserver", "kube-apiserver"):
            self.end(name, signal.SIGKILL)
        self.end("etcd", signal.SIGKILL)
        if self._shelf is not None:
            self._shelf.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def end(self, name: str, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """End one program, if it runs."""
        process = self._running.pop(name, None)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(with_signal)
            process.wait(60)

    def start_api(self) -> None:
        """Start the kube-apiserver, at first or after it was ended."""
        key, port = self._accounts, self._ports["api"]
        self._run(
            "kube-apiserver",
            f"--etcd-servers={self._etcd_url}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            "--advertise-address=192.0.2.1",
            "--endpoint-reconciler-type=none",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--service-account-issuer=https://localhost:{port}",
            f"--service-account-signing-key-file={key}",
            f"--service-account-key-file={key}",
            "--disable-admission-plugins=ServiceAccount",
            *self._serving(),
            *self._front_proxy(),
            f"--proxy-client-cert-file={self._front[0]}",
            f"--proxy-client-key-file={self._front[1]}",
        )
        self._wait_ready("kube-apiserver", f"{self.url}/readyz")

    def token(self, namespace: str, account: str) -> str:
        """A token of a service account, from the API server itself."""
        return self._token(namespace, account, {})

    def token_for(self, namespace: str, account: str, audience: str) -> str:
        """A token of a service account that is for somebody else than the API server."""
        return self._token(namespace, account, {"audiences": [audience]})

    def _token(self, namespace: str, account: str, spec: dict) -> str:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return self.api.post(path, asked)["status"]["token"]

    def kubeconfig_of(self, name: str, token: str) -> str:
        """A kubeconfig file that logs in with a token."""
        return self._kubeconfig(name, {"token": token})

    def kubectl(self, *arguments: str, text: str = "", kubeconfig: str = "", check=True):
        """Run kubectl; gives what it printed."""
        command = [str(self.assets["kubectl"]), f"--kubeconfig={kubeconfig or self.kubeconfig}"]
        done = subprocess.run(
            [*command, f"--cache-dir={self.folder / 'kubectl-cache'}", *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def log(self, name: str) -> str:
        """The end of a program's log."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    def install(self, definitions) -> None:
        """Create the CRDs where they are served, and wait until their objects can be written."""
        api = self._extensions_api() if self.aggregates else self.api
        where = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        for definition in definitions:
            api.apply(f"{where}/{definition['metadata']['name']}", definition)
        for definition in definitions:
            self._wait(
                lambda name=definition["metadata"]["name"]: _established(api, f"{where}/{name}"),
                f"CRD {definition['metadata']['name']} is not established",
            )
        groups = {d["spec"]["group"]: d["spec"]["versions"][0]["name"] for d in definitions}
        for group, version in groups.items():
            if self.aggregates:
                self._aggregate(group, version)
            self._wait(
                lambda g=group, v=version: self._lists(f"/apis/{g}/{v}", len(definitions)),
                f"the API server does not serve {group}",
            )

    def _lists(self, path: str, count: int) -> bool:
        code, body = self.api.request("GET", path)
        plurals = [r["name"] for r in body.get("resources", ()) if "/" not in r["name"]]
        if code != 200 or len(plurals) < count:
            return False
        return all(self.api.request("GET", f"{path}/{p}")[0] == 200 for p in plurals)

    def _aggregate(self, group: str, version: str) -> None:
        namespace = "/api/v1/namespaces/kube-system"
        self._wait(lambda: self.api.get(namespace), "the namespace kube-system never came")
        service = {"type": "ExternalName", "externalName": "localhost"}
        metadata = {"name": "extensions", "namespace": "kube-system"}
        self.api.create(
            f"{namespace}/services",
            {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
        )
        name = f"{version}.{group}"
        spec = {
            "group": group,
            "version": version,
            "groupPriorityMinimum": 1000,
            "versionPriority": 15,
            "insecureSkipTLSVerify": True,
            "service": {
                "name": "extensions",
                "namespace": "kube-system",
                "port": self._ports["extensions"],
            },
        }
        self.api.create(
            "/apis/apiregistration.k8s.io/v1/apiservices",
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": name},
                "spec": spec,
            },
        )

    @property
    def _etcd_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['etcd']}"

    def _extensions_api(self) -> Api:
        url = f"https://127.0.0.1:{self._ports['extensions']}"
        return Api(url, self._authority.file, pair=self.api.pair)

    def _start_etcd(self) -> None:
        peer = f"http://127.0.0.1:{self._ports['peer']}"
        self._run(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )
        self._wait_ready("etcd", f"{self._etcd_url}/health")

    def _start_extensions(self) -> None:
        admin, off = self.kubeconfig, "ValidatingAdmissionPolicy,MutatingAdmissionPolicy"
        if self._policies:
            self._shelf = PolicyShelf(self.url, self.api._context, self._policies)
            admin = self._kubeconfig("shelf", {}, url=self._shelf.url)
            off = "MutatingAdmissionPolicy"
        self._run(
            "apiextensions-apiserver",
            f"--etcd-servers={self._etcd_url}",
            "--etcd-prefix=/registry-ext",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._ports['extensions']}",
            f"--kubeconfig={admin}",
            f"--authentication-kubeconfig={admin}",
            f"--authorization-kubeconfig={admin}",
            f"--disable-admission-plugins={off}",
            "--enable-priority-and-fairness=false",
            *self._serving(),
            *self._front_proxy(),
        )
        url = f"https://127.0.0.1:{self._ports['extensions']}/readyz?exclude=informer-sync"
        self._wait_ready("apiextensions-apiserver", url)

    def _start_manager(self) -> None:
        version = subprocess.run(
            [str(self.assets["kube-controller-manager"]), "--version"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        old = ("--port=0",) if " v1.20." in version else ()
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--secure-port={self._ports['kcm']}",
            "--bind-address=127.0.0.1",
            f"--service-account-private-key-file={self._accounts}",
            f"--root-ca-file={self._authority.file}",
            "--use-service-account-credentials=false",
            "--leader-elect=false",
            "--controllers=namespace,serviceaccount,job,garbagecollector",
            *old,
        )

    def _serving(self) -> tuple[str, ...]:
        return (
            f"--cert-dir={self.folder}",
            f"--tls-cert-file={self._server[0]}",
            f"--tls-private-key-file={self._server[1]}",
            f"--client-ca-file={self._authority.file}",
        )

    def _front_proxy(self) -> tuple[str, ...]:
        return (
            f"--requestheader-client-ca-file={self._authority.file}",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        )

    def _run(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [str(self.assets[name]), *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                start_new_session=True,
            )

    def _wait_ready(self, name: str, url: str) -> None:
        def ready() -> bool:
            process = self._running[name]
            if process.poll() is not None:
                raise AssertionError(f"{name} ended with {process.returncode}: {self.log(name)}")
            context = self.api._context if url.startswith("https") else None
            with urllib.request.urlopen(url, context=context, timeout=5) as answer:
                return answer.status == 200

        self._wait(ready, f"{name} does not get ready: {self.log(name)}")

    @staticmethod
    def _wait(ready, message: str) -> None:
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if ready():
                    return
            time.sleep(0.2)
        raise AssertionError(message)

    def _kubeconfig(self, name: str, user: dict[str, str], *, url: str = "") -> str:
        cluster = {
            "server": url or self.url,
            "certificate-authority-data": base64.b64encode(
                pathlib.Path(self._authority.file).read_bytes()
            ).decode(),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        }
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        path.chmod(0o600)
        return str(path)


def _established(api: Api, path: str) -> bool:
    listed = (api.get(path) or {}).get("status", {}).get("conditions") or ()
    found = {c["type"]: c for c in listed}
    broken = found.get("NonStructuralSchema")
    if broken and broken["status"] == "True":
        raise AssertionError(broken["message"])
    return found.get("Established", {}).get("status") == "True"

"""An authority of a test's own, and a certificate of it for localhost."""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclasses.dataclass(frozen=True)
class Files:
    """PEM files."""

    authority: pathlib.Path
    certificate: pathlib.Path
    key: pathlib.Path


def authority(folder: pathlib.Path) -> Files:
    """Make both, valid for a day."""
    folder.mkdir()
    root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    issuer = _name("test authority")
    basic = x509.BasicConstraints(ca=True, path_length=0)
    usage = x509.SubjectKeyIdentifier.from_public_key(root.public_key())
    top = _builder(issuer, issuer, root).add_extension(basic, critical=True)
    top = top.add_extension(usage, critical=False).sign(root, hashes.SHA256())
    whose = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key())
    leaf = _builder(_name("localhost"), issuer, key).add_extension(names, critical=False)
    leaf = leaf.add_extension(whose, critical=False).sign(root, hashes.SHA256())
    files = Files(folder / "ca.crt", folder / "tls.crt", folder / "tls.key")
    files.authority.write_bytes(top.public_bytes(serialization.Encoding.PEM))
    files.certificate.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, issuer: x509.Name, key) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )

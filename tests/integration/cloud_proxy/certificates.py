"""Certificates made on the spot, good ones and others."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DAY = timedelta(days=1)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


@dataclass(frozen=True)
class Authority:
    """An authority, trusted by nobody but who is handed `bundle`. Its files go to `folder`."""

    folder: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @cached_property
    def bundle(self) -> Path:
        name = named("Tests")
        file = self.folder / "authority.pem"
        file.write_bytes(
            signed(name, name, self.key, self.key, extension=x509.BasicConstraints(ca=True, path_length=0))
        )
        return file

    def issued(self, host: str = "127.0.0.1", *, age: timedelta = DAY, self_signed: bool = False) -> Path:
        """Return the file of a certificate for `host` and its key; it holds from `age` ago for two days."""
        try:
            alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            alternative = x509.DNSName(host)
        key, name = ec.generate_private_key(ec.SECP256R1()), named("Tests" if not self_signed else host)
        certificate = signed(
            named(host),
            name,
            key,
            key if self_signed else self.key,
            age=age,
            extension=x509.SubjectAlternativeName([alternative]),
        )
        file = self.folder / f"{host}-{age.days}-{self_signed}.pem"
        pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        file.write_bytes(certificate + key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
        return file

    def server(self, certificate: Path, *, asks_for_one: bool = False) -> ssl.SSLContext:
        """Return how a server with `certificate` speaks TLS."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.bundle)
        context.load_cert_chain(certificate)
        if asks_for_one:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def signed(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    by: ec.EllipticCurvePrivateKey,
    *,
    extension: x509.ExtensionType,
    age: timedelta = DAY,
) -> bytes:
    """Return the certificate of `subject`'s `key`, in PEM."""
    began = datetime.now(UTC) - age
    builder = x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), began, began + 2 * DAY
    ).add_extension(extension, critical=False)
    return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

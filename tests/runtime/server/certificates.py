"""Certificates to test with, signed by an authority that exists for the test alone."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates into a folder.

    Args:
        folder: Where to.
        name: The authority's.

    Attributes:
        path: Its own certificate.
    """

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder, self._name = folder, _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.path = folder / f"{name}.pem"
        basic = x509.BasicConstraints(ca=True, path_length=None)
        built = self._builder(self._name, self._key, DAY).add_extension(basic, critical=True)
        self._write(self.path, built.sign(self._key, hashes.SHA256()))

    def sign(
        self,
        name: str,
        *,
        host: str = "127.0.0.1",
        begins: datetime.timedelta = -2 * DAY,
        lasts: datetime.timedelta = DAY,
    ) -> tuple[Path, Path]:
        """A certificate for a host and its key, from now + `begins` to now + `lasts`."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
        built = self._builder(_name(name), key, lasts, begins).add_extension(alternative, critical=False)
        cert, private = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        self._write(cert, built.sign(self._key, hashes.SHA256()))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return cert, private

    def _builder(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        lasts: datetime.timedelta,
        begins: datetime.timedelta = -2 * DAY,
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + lasts)
        )

    def _write(self, path: Path, certificate: x509.Certificate) -> None:
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

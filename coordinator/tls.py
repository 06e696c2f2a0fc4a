"""The TLS authority that nodes pin, and the server certificate it signs.

Files in the state directory: authority.pem, authority.key, server.pem (server, then authority),
server.key. cryptography is imported where it is used: a running server only reads the files.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator import clock
from ztlab.errors import ZtError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

AUTHORITY_DAYS = 3652
SERVER_DAYS = 825
RENEW_DAYS = 60  # `init` makes a new server certificate when less is left


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the four files are."""

    directory: Path

    @property
    def authority(self) -> Path:
        return self.directory / "authority.pem"

    @property
    def authority_key(self) -> Path:
        return self.directory / "authority.key"

    @property
    def server(self) -> Path:
        return self.directory / "server.pem"

    @property
    def server_key(self) -> Path:
        return self.directory / "server.key"


def fingerprint(pem: str) -> bytes:
    """SHA-256 (32 bytes) of a certificate's DER: what setup keys pin."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest()


def read_authority(directory: Path) -> str:
    """The authority's PEM; ZtError before `init`."""
    try:
        return TlsFiles(directory).authority.read_text(encoding="ascii")
    except OSError as error:
        raise ZtError(
            f"no TLS authority in {directory}: {error.strerror}",
            hint="run `zt-coordinator init --config FILE` first",
        ) from error


def prepare(directory: Path, names: tuple[str, ...]) -> None:
    """Make what is missing: the authority once, the server certificate whenever NAMES changed.

    Safe to repeat. A changed authority would lock every node out, so it is never replaced.
    """
    files = TlsFiles(directory)
    if not files.authority.exists():
        _make_authority(files)
    if not _server_fits(files, names):
        _make_server(files, names)


def _make_authority(files: TlsFiles) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [x509.NameAttribute(x509.NameOID.COMMON_NAME, f"ztlab authority {os.urandom(4).hex()}")]
    )
    builder = _builder(subject, subject, key, AUTHORITY_DAYS)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(_server_auth(), critical=False)
    )
    certificate = builder.sign(key, hashes.SHA256())
    # The key first: an authority without its key would never be repaired, and never be useful.
    write_file(files.authority_key, _key_pem(key), 0o600)
    write_file(files.authority, _pem(certificate), 0o644)


def _make_server(files: TlsFiles, names: tuple[str, ...]) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        loaded = serialization.load_pem_private_key(files.authority_key.read_bytes(), None)
        authority = x509.load_pem_x509_certificate(files.authority.read_bytes())
    except OSError as error:
        raise ZtError(
            f"cannot read {error.filename}: {error.strerror}",
            hint="run `init` as the user who ran it first",
        ) from error
    except ValueError as error:
        raise ZtError(
            f"the TLS authority in {files.directory} is damaged: {error}",
            hint="restore authority.pem and authority.key; every node pins them",
        ) from error
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0][:64])])
    builder = _builder(subject, authority.subject, key, SERVER_DAYS)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(_server_auth(), critical=False)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(names)), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(loaded.public_key()),
            critical=False,
        )
    )
    certificate = builder.sign(loaded, hashes.SHA256())
    write_file(files.server_key, _key_pem(key), 0o600)
    write_file(files.server, _pem(certificate) + _pem(authority), 0o644)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    from cryptography import x509

    start = clock.now() - timedelta(hours=1)  # a node's clock may be behind
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _server_auth() -> x509.ExtendedKeyUsage:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    return x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])


def _alternative_names(names: tuple[str, ...]) -> list[x509.GeneralName]:
    from cryptography import x509

    result: list[x509.GeneralName] = []
    for name in names:
        try:
            result.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            result.append(x509.DNSName(name))
    return result


def _server_fits(files: TlsFiles, names: tuple[str, ...]) -> bool:
    from cryptography import x509

    if not (files.server.exists() and files.server_key.exists()):
        return False
    try:
        certificate = x509.load_pem_x509_certificate(files.server.read_bytes())
    except ValueError:  # no certificate at all: half of one, from a disk that was full
        return False
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    left = certificate.not_valid_after_utc - clock.now()
    return list(found) == _alternative_names(names) and left > timedelta(days=RENEW_DAYS)


def expires_at(directory: Path) -> datetime:
    """When the server certificate ends."""
    from cryptography import x509

    pem = TlsFiles(directory).server.read_bytes()
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and never readable for others even for an instant."""
    temporary = path.with_suffix(path.suffix + ".new")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)

"""The TLS authority that nodes pin, and the server certificate it signs.

Files in the state directory: authority.pem, authority.key, server.pem (server, then authority),
server.key. cryptography is imported where it is used: a running server only reads the files.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator import clock
from coordinator.settings import SERVER_DAYS, Settings
from ztlab.errors import ZtError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

AUTHORITY_DAYS = 3652
MOST_AUTHORITIES = 4  # that nodes are told of
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n.*?\n-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where our own files are; the `next` ones are there while the authority is rolled over."""

    directory: Path

    @property
    def authority(self) -> Path:
        return self.directory / "authority.pem"

    @property
    def authority_key(self) -> Path:
        return self.directory / "authority.key"

    @property
    def next_authority(self) -> Path:
        return self.directory / "authority-next.pem"

    @property
    def next_authority_key(self) -> Path:
        return self.directory / "authority-next.key"

    @property
    def server(self) -> Path:
        return self.directory / "server.pem"

    @property
    def server_key(self) -> Path:
        return self.directory / "server.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """The files that a running service reads: our own, or those that were given to it."""

    certificate: Path
    private_key: Path
    authorities: tuple[Path, ...]

    @property
    def all(self) -> tuple[Path, ...]:
        return (self.certificate, self.private_key, *self.authorities)


def paths(settings: Settings) -> Paths:
    """Where the files of SETTINGS are."""
    if settings.certificate and settings.private_key and settings.authority:
        return Paths(
            certificate=Path(settings.certificate),
            private_key=Path(settings.private_key),
            authorities=(Path(settings.authority),),
        )
    own = TlsFiles(settings.directory)
    return Paths(
        certificate=own.server,
        private_key=own.server_key,
        authorities=(own.authority, own.next_authority),
    )


def fingerprint(pem: str) -> bytes:
    """SHA-256 (32 bytes) of a certificate's DER: what setup keys pin."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest()


def read_authority(directory: Path) -> str:
    """Our own authority's PEM; ZtError before `init`."""
    return _read(TlsFiles(directory).authority)


def read_authorities(settings: Settings) -> tuple[str, ...]:
    """PEM of each authority that nodes shall trust, the newest last; ZtError if none."""
    first, *others = paths(settings).authorities
    text = _read(first) + "".join(_read(path) for path in others if path.exists())
    found = tuple(dict.fromkeys(block + "\n" for block in _CERTIFICATE.findall(text)))
    if not 1 <= len(found) <= MOST_AUTHORITIES:
        raise ZtError(f"want 1 to {MOST_AUTHORITIES} certificates in {first}, found {len(found)}")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ZtError(
            f"cannot read the TLS authority in {path}: {error}",
            hint="run `zt-coordinator init --config FILE` first",
        ) from error


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """One at a time: two could leave the authority of one beside the key of the other."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def renew(settings: Settings, *, even_if_fresh: bool = False) -> bool:
    """Make our own server certificate anew if it is due; was it? Nothing where one was given.

    Owner and mode stay what they were, so that the service can read what root renewed.
    """
    if settings.certificate is not None:
        return False
    files = TlsFiles(settings.directory)
    with alone(settings.directory):
        if not even_if_fresh and _server_fits(files, settings.names, settings.certificate_days):
            return False
        make_server(
            files, settings.names, settings.certificate_days, files.authority, files.authority_key
        )
    return True


def prepare(directory: Path, names: tuple[str, ...], days: int = SERVER_DAYS) -> None:
    """Make what is missing: the authority once, the server certificate whenever NAMES changed, or
    a third of its DAYS is left, or it and its key are not of one making.

    Safe to repeat. A changed authority would lock every node out, so it is never replaced.
    """
    files = TlsFiles(directory)
    if not files.authority.exists():
        make_authority(files.authority, files.authority_key)
    if not _server_fits(files, names, days):
        make_server(files, names, days, files.authority, files.authority_key)


def make_authority(path: Path, key_path: Path) -> None:
    """A new authority, its key first: without its key it would never be repaired or useful."""
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
    write_file(key_path, _key_pem(key), 0o600)
    write_file(path, _pem(certificate), 0o644)


def make_server(
    files: TlsFiles, names: tuple[str, ...], days: int, authority_path: Path, key_path: Path
) -> None:
    """A new server certificate of the authority there. It needs the authority's key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        loaded = serialization.load_pem_private_key(key_path.read_bytes(), None)
        authority = x509.load_pem_x509_certificate(authority_path.read_bytes())
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
    if loaded.public_key() != authority.public_key():
        raise ZtError(
            f"{key_path} is not the key of {authority_path}",
            hint="was a switch interrupted? run `zt-coordinator authority switch` again",
        )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0][:64])])
    builder = _builder(subject, authority.subject, key, days)
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
    owner = files.server.stat() if files.server.exists() else None
    for path, content, mode in (
        (files.server_key, _key_pem(key), 0o600),
        (files.server, _pem(certificate) + _pem(authority), 0o644),
    ):
        write_file(path, content, mode, owner)


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


def _server_fits(files: TlsFiles, names: tuple[str, ...], days: int) -> bool:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if not (files.server.exists() and files.server_key.exists()):
        return False
    try:
        certificate = x509.load_pem_x509_certificate(files.server.read_bytes())
        key = load_pem_private_key(files.server_key.read_bytes(), None)
    except ValueError:  # no certificate at all: half of one, from a disk that was full
        return False
    if key.public_key() != certificate.public_key():  # stopped between the one and the other
        return False
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    left = certificate.not_valid_after_utc - clock.now()
    return list(found) == _alternative_names(names) and left > timedelta(days=days) / 3


def expires_at(certificate: Path) -> datetime:
    """When the certificate in that file, the first, ends."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_file(path: Path, content: bytes, mode: int, owner: os.stat_result | None = None) -> None:
    """Whole or not at all, and never readable for others even for an instant.

    owner  of the file it replaces; it stays theirs
    """
    temporary = path.with_suffix(path.suffix + ".new")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        if owner is not None and os.geteuid() == 0:
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)

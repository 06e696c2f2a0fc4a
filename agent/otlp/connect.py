"""The connection to a collector: whom it is verified by, and what the agent shows of itself."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import urllib3

from agent import state
from agent.settings import OtlpSettings
from ztlab.errors import ZtError

Stamp = tuple[tuple[int, int, int] | None, ...]


def stamp(settings: OtlpSettings) -> Stamp:
    """What changes when one of the files that connections are made with is another one."""
    files = (settings.ca_file, settings.certificate, settings.private_key)
    return tuple(_stat(path) for path in files if path is not None)


def _stat(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def pool(settings: OtlpSettings) -> urllib3.HTTPConnectionPool:
    """One connection, kept. ZtError names the file that cannot be used."""
    parts = urlsplit(settings.url)
    host = parts.hostname or ""
    if parts.scheme == "http":
        return urllib3.HTTPConnectionPool(host, parts.port or 80, maxsize=1)
    context = _verifying(settings.ca_file)
    if settings.certificate is not None and settings.private_key is not None:
        _show(context, settings.certificate, settings.private_key)
    return urllib3.HTTPSConnectionPool(host, parts.port or 443, maxsize=1, ssl_context=context)


def _verifying(ca_file: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # an ssl.SSLError is one
        raise ZtError(
            f"{ca_file}: cannot be used as a TLS authority: {error.strerror or error}",
            hint="log.otlp.ca_file is one or more certificates in PEM",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _show(context: ssl.SSLContext, certificate: str, private_key: str) -> None:
    state.private_text(Path(private_key))  # SchemaError where others may read it
    try:
        # A key with a passphrase is refused: nobody is there to be asked for it.
        context.load_cert_chain(certificate, private_key, password=lambda: b"")
    except OSError as error:
        raise ZtError(
            f"{certificate}, {private_key}: cannot be used as a certificate and its key: "
            f"{error.strerror or error}",
            hint="log.otlp.certificate and private_key are PEM and belong together, without a "
            "passphrase",
        ) from error

"""Folders and files that the server writes, and certificates that it reads."""

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from llm_proxy.audit import file as audit_file
from llm_proxy.cli.doctor.finding import CheckContext, Finding, fault, good, warning
from llm_proxy.cli.output import counted

_LEAST_FREE_BYTES = 200 * 1024 * 1024
_SOON = timedelta(days=14)


def written(context: CheckContext) -> Iterator[Finding]:
    """Everything that is written: database, audit, log, spool, ledger, metrics."""
    settings, count = context.settings, 0
    places = [
        ("files.log", "LOG_FILE", settings.operation.log_file),
        ("files.spool", "EVENT_SPOOL_DIR", settings.events.spool_dir),
        ("files.ledger", "LEDGER_DIR", settings.tokens.ledger_dir),
        ("files.event-log", "FILE_EVENT_LOG", settings.events.file_log),
    ]
    if settings.storage.driver == "sqlite" and settings.storage.path != ":memory:":
        places.insert(0, ("files.database", "DATABASE_PATH", Path(settings.storage.path)))
    for code, name, place in places:
        if not place:
            continue
        count += 1
        if not _can_write(Path(place)):
            yield fault(code, f"{name}={place} cannot be written", _who(Path(place)))
    if line := audit_file.fault(settings.operation):
        yield fault("files.audit", line, "correct the path, or let this user write there; AUDIT_LOG_FILE= is no file")
    yield good("files", f"{counted(count, 'path')} can be written") if count else good("files", "nothing is written")


def database_file(context: CheckContext) -> Iterator[Finding]:
    """Check owner and readers of the SQLite file, and whether there is room."""
    settings = context.settings
    path = Path(settings.storage.path)
    if settings.storage.driver != "sqlite" or settings.storage.path == ":memory:":
        return
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE_BYTES:
        yield fault("files.space", f"only {free // 1024**2} MB are free where {path} is", "free some room")
    if not path.is_file():
        return
    about = path.stat()
    if about.st_mode & 0o077:
        yield warning("files.database-readable", f"{path} can be read by others", f"chmod 600 {path}")
    if about.st_uid != os.geteuid():
        what = f"{path} belongs to uid {about.st_uid}, this is uid {os.geteuid()}"
        yield warning("files.database-owner", what, "run commands as the user who runs the server")


def tls(context: CheckContext) -> Iterator[Finding]:
    """Check the server's own certificate and key."""
    server = context.settings.server
    if not server.enable_tls or not server.tls_cert_file.is_file() or not server.tls_key_file.is_file():
        return
    if server.tls_key_file.stat().st_mode & 0o077:
        yield warning(
            "tls.key-readable",
            f"{server.tls_key_file} can be read by others",
            f"chmod 600 {server.tls_key_file}",
        )
    try:
        certificate = x509.load_pem_x509_certificate(server.tls_cert_file.read_bytes())
        key = load_pem_private_key(server.tls_key_file.read_bytes(), password=None)
    except (ValueError, TypeError, OSError):
        yield fault("tls.unreadable", "TLS_CERT_FILE or TLS_KEY_FILE is no PEM without a password", "replace the file")
        return
    if _public(certificate.public_key()) != _public(key.public_key()):
        yield fault(
            "tls.key-mismatch", "TLS_KEY_FILE is not the key of TLS_CERT_FILE", "set the pair that belongs together"
        )
    yield from _validity(certificate)


def _validity(certificate: x509.Certificate) -> Iterator[Finding]:
    now = datetime.now(UTC)
    until = certificate.not_valid_after_utc
    if until < now:
        yield fault("tls.expired", f"TLS_CERT_FILE expired on {until:%Y-%m-%d}", "renew the certificate, then SIGHUP")
    elif until < now + _SOON:
        yield warning("tls.expires-soon", f"TLS_CERT_FILE expires on {until:%Y-%m-%d}", "renew the certificate")
    elif certificate.not_valid_before_utc > now:
        since = certificate.not_valid_before_utc
        yield fault("tls.not-yet-valid", f"TLS_CERT_FILE is valid from {since:%Y-%m-%d} on", "check the clock, or wait")
    else:
        yield good("tls", f"certificate valid until {until:%Y-%m-%d}")


def _public(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]


def _can_write(path: Path) -> bool:
    """Whether the file, or the folder that it would be made in, can be written; makes nothing."""
    if path.exists():
        return os.access(path, os.W_OK)
    folder = path.parent
    while not folder.exists():
        if folder == folder.parent:
            return False
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) and not os.statvfs(folder).f_flag & os.ST_RDONLY


def _who(path: Path) -> str:
    return f"let uid {os.geteuid()} write {path.parent}, or name another place"

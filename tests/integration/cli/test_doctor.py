"""`doctor`: a healthy installation is well, and each seeded fault is named by its code, with a remedy."""

import contextlib
import json
import os
import resource
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import formatdate

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from support.installation import BAD_REQUEST, KEY, OTHER_KEY, PROVIDER_KEY, Installation, responds_with

from llm_proxy.cli.doctor import host
from llm_proxy.settings.load import SAMPLE_MANAGEMENT_TOKEN


def test_a_healthy_installation_is_well(healthy: Installation) -> None:
    """Neither fault nor warning; every side was looked at."""
    findings = healthy.findings()
    assert [finding for finding in findings if finding.level != "good"] == []
    sides = {finding.code.partition(".")[0] for finding in findings}
    assert sides >= {"settings", "provider-file", "files", "host", "clock", "database", "migrations", "keys", "redis"}
    assert {"provider", "provider.keys", "clock.provider"} <= {finding.code for finding in findings}


# -- what is sown -----------------------------------------------------------------------------------------------------


def _set(**variables: str) -> Callable[[Installation], None]:
    return lambda installation: installation.variables.update(variables)


def _unset(name: str) -> Callable[[Installation], None]:
    return lambda installation: installation.variables.__delitem__(name)


def _env_file(text: str, mode: int = 0o600) -> Callable[[Installation], None]:
    def sow(installation: Installation) -> None:
        (installation.folder / ".env").write_text(text)
        (installation.folder / ".env").chmod(mode)

    return sow


def _secret_file(mode: int, **more: str) -> Callable[[Installation], None]:
    def sow(installation: Installation) -> None:
        path = installation.folder / "token"
        path.write_text("a-management-token-of-the-tests")
        path.chmod(mode)
        installation.variables.pop("MANAGEMENT_TOKEN")
        installation.variables.update({"MANAGEMENT_TOKEN_FILE": str(path), **more})

    return sow


def _provider_file(text: str) -> Callable[[Installation], None]:
    def sow(installation: Installation) -> None:
        (installation.folder / "p.yaml").write_text(text)
        installation.variables["API_CONFIG_PATH"] = "p.yaml"

    return sow


def _below_a_file(name: str) -> Callable[[Installation], None]:
    """A place that no user can write to, root included: below what is no folder."""

    def sow(installation: Installation) -> None:
        (installation.folder / "plain").write_text("")
        installation.variables[name] = str(installation.folder / "plain" / "x" / "y")

    return sow


def _sql(statement: str, *values: object) -> Callable[[Installation], None]:
    return lambda installation: installation.execute(statement, *values)


def _rules(**plan: object) -> Callable[[Installation], None]:
    return lambda installation: installation.provider.set_rules(plan)


def _no_database(installation: Installation) -> None:
    installation.database.write_bytes(b"this is a letter, and no database at all\n" * 100)


def _corrupt(installation: Installation) -> None:
    """Overwrite the middle of the file, headers left in place."""
    with contextlib.closing(sqlite3.connect(installation.database)) as connection, connection:
        rows = [(f"p{number}", f"name-{number}", "x" * 2000) for number in range(200)]
        connection.executemany(
            "INSERT INTO projects (id, name, api_key, is_active, created_at, updated_at) VALUES (?, ?, ?, 0,"
            " '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000')",
            [(f"q{identity}", name, key) for identity, name, key in rows],
        )
    with contextlib.closing(sqlite3.connect(installation.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with installation.database.open("r+b") as file:
        file.seek(installation.database.stat().st_size // 2)
        file.write(os.urandom(64 * 1024))


def _locked(installation: Installation) -> None:
    connection = sqlite3.connect(installation.database, isolation_level=None)
    installation.undo.callback(connection.close)
    connection.execute("BEGIN IMMEDIATE")


def _foreign_schema(installation: Installation) -> None:
    installation.execute("UPDATE alembic_version SET version_num = 'ae1027a6acf'")


def _not_migrated(**variables: str) -> Callable[[Installation], None]:
    def sow(installation: Installation) -> None:
        installation.database.unlink()
        with contextlib.closing(sqlite3.connect(installation.database)) as connection, connection:
            connection.execute("CREATE TABLE notes (text TEXT)")
        installation.database.chmod(0o600)
        installation.variables.update(variables)

    return sow


def _another_listens(installation: Installation) -> None:
    host, _, port = installation.variables["LISTEN_ADDR"].rpartition(":")
    installation.undo.enter_context(socket.create_server((host, int(port))))


def _few_descriptors(installation: Installation) -> None:
    installation.patch.setattr(resource, "getrlimit", lambda _: (1024, 1024))


def _no_shm(installation: Installation) -> None:
    installation.patch.setattr(host, "_HEARTBEATS", installation.folder / "missing")


def _no_room(installation: Installation) -> None:
    installation.patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))


def _another_owner(installation: Installation) -> None:
    installation.patch.setattr(os, "geteuid", lambda: 12345)


def _clock_of_1970(installation: Installation) -> None:
    installation.patch.setattr(time, "time", lambda: 100_000.0)


def _certificate(
    *, days_from: int = -1, days_to: int = 90, mode: int = 0o600, is_pair: bool = True
) -> Callable[[Installation], None]:
    def sow(installation: Installation) -> None:
        key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now + timedelta(days=days_from)).not_valid_after(
            now + timedelta(days=days_to)
        )
        (installation.folder / "c.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
        key = key if is_pair else ec.generate_private_key(ec.SECP256R1())
        path = installation.folder / "k.pem"
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        path.chmod(mode)
        installation.variables.update(ENABLE_TLS="true", TLS_CERT_FILE="c.pem", TLS_KEY_FILE="k.pem")

    return sow


def _no_pem(installation: Installation) -> None:
    _certificate()(installation)
    (installation.folder / "c.pem").write_text("not a certificate")


def _of(year: int) -> str:
    return formatdate(datetime(year, 1, 1, tzinfo=UTC).timestamp(), usegmt=True)


SEEDS: list[tuple[str, Callable[[Installation], None]]] = [
    ("settings.invalid", _set(KEEPALIVE_TIMEOUT="never")),
    ("settings.env-file-line", _env_file("MANAGEMENT_TOKEN='unclosed\n")),
    ("settings.secret-twice", _secret_file(0o600, MANAGEMENT_TOKEN="twice-the-management-token")),
    ("settings.secret-file", _set(ENCRYPTION_KEY_FILE="missing", ENCRYPTION_KEY="")),
    ("settings.sample-token", _set(MANAGEMENT_TOKEN=SAMPLE_MANAGEMENT_TOKEN)),
    ("settings.management-token-missing", _unset("MANAGEMENT_TOKEN")),
    ("settings.weak-token", _set(MANAGEMENT_TOKEN="short")),
    ("settings.encryption-key", _set(ENCRYPTION_KEY="c2hvcnQ=")),
    ("settings.misspelt", _set(DATABASE_PAHT="x")),
    ("settings.no-effect", _set(WORKER_POOL_SIZE="5")),
    ("settings.database-url-missing", _set(DB_DRIVER="postgres")),
    ("settings.tls-file", _set(ENABLE_TLS="true")),
    ("provider-file.missing", _set(API_CONFIG_PATH="missing.yaml")),
    ("provider-file.invalid", _provider_file("apis: [1, 2\n")),
    ("provider-file.invalid", _provider_file("apis:\n  openai:\n    base_url: nonsense\n")),
    ("provider-file.provider", _set(DEFAULT_API_PROVIDER="somebody")),
    ("files.env-file-readable", _env_file("API_ENV=x\n", 0o644)),
    ("files.secret-file-readable", _secret_file(0o644)),
    ("files.database", _below_a_file("DATABASE_PATH")),
    ("files.audit", _below_a_file("AUDIT_LOG_FILE")),
    ("files.log", _below_a_file("LOG_FILE")),
    ("files.event-log", _below_a_file("FILE_EVENT_LOG")),
    ("files.spool", _below_a_file("EVENT_SPOOL_DIR")),
    ("files.ledger", _below_a_file("LEDGER_DIR")),
    ("files.database-readable", lambda it: it.database.chmod(0o644)),
    ("files.database-owner", _another_owner),
    ("files.space", _no_room),
    ("tls.expired", _certificate(days_from=-9, days_to=-1)),
    ("tls.expires-soon", _certificate(days_to=3)),
    ("tls.not-yet-valid", _certificate(days_from=5)),
    ("tls.key-mismatch", _certificate(is_pair=False)),
    ("tls.key-readable", _certificate(mode=0o644)),
    ("tls.unreadable", _no_pem),
    ("host.address-busy", _another_listens),
    ("host.address-unknown", _set(LISTEN_ADDR="no-such-host.invalid:8080")),
    ("host.descriptors", _few_descriptors),
    ("host.shm", _no_shm),
    ("clock.unset", _clock_of_1970),
    ("database.not-a-database", _no_database),
    ("database.corrupt", _corrupt),
    ("database.locked", _locked),
    ("migrations.pending", _not_migrated()),
    ("migrations.pending", _not_migrated(AUTO_MIGRATE="false")),
    ("migrations.too-new", _sql("UPDATE alembic_version SET version_num = '9999'")),
    ("migrations.foreign", _foreign_schema),
    ("keys.missing", _unset("ENCRYPTION_KEY")),
    ("keys.unknown", _set(ENCRYPTION_KEY=OTHER_KEY)),
    ("keys.previous", _set(ENCRYPTION_KEY=OTHER_KEY, ENCRYPTION_KEY_PREVIOUS=KEY)),
    ("keys.tampered", _sql("UPDATE projects SET api_key = substr(api_key, 1, 30) || 'AAAA' || substr(api_key, 35)")),
    ("keys.plain", _sql("UPDATE projects SET api_key = ?", PROVIDER_KEY)),
    ("provider.refused", _set(OPENAI_API_URL="http://127.0.0.1:1")),
    ("provider.unknown-host", _set(OPENAI_API_URL="http://no-such-host.invalid")),
    ("provider.tls", responds_with(BAD_REQUEST, form="https://{}")),
    ("provider.not-http", responds_with(b"SSH-2.0-OpenSSH\r\n")),
    ("provider.proxy", _set(HTTP_PROXY="http://127.0.0.1:1", NO_PROXY="")),
    ("provider.unavailable", _rules(status=503)),
    ("provider.redirects", _rules(redirect="/elsewhere")),
    ("provider.key-refused", _rules(path="/v1/models", nth=[2], status=401)),
    ("provider.rate-limited", _rules(path="/v1/models", nth=[2], status=429)),
    ("clock.provider", responds_with(f"HTTP/1.1 401 x\r\nDate: {_of(2001)}\r\nContent-Length: 0\r\n\r\n".encode())),
]


@pytest.mark.parametrize(("code", "sow"), SEEDS, ids=[f"{number}-{code}" for number, (code, _) in enumerate(SEEDS, 1)])
def test_seeded_fault_is_named(healthy: Installation, code: str, sow: Callable[[Installation], None]) -> None:
    """Its code is among the findings, with a remedy, in one line without a secret; the doctor itself never fails."""
    sow(healthy)
    findings = [finding for finding in healthy.findings() if finding.level != "good"]
    named = [finding for finding in findings if finding.code == code]
    assert named, [finding.code for finding in findings]
    assert all(finding.remedy and "\n" not in finding.what for finding in findings)
    assert "doctor.check-failed" not in [finding.code for finding in findings]
    text = json.dumps([(finding.what, finding.remedy) for finding in findings])
    assert not [secret for secret in (PROVIDER_KEY, KEY, OTHER_KEY) if secret in text]


def test_forty_faults_are_seeded() -> None:
    """As many as were promised, and each of its own kind."""
    assert len({code for code, _ in SEEDS}) >= 40

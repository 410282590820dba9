"""`doctor`: a healthy installation is well, and each seeded fault is named by its code, with a remedy."""

import base64
import contextlib
import json
import os
import resource
import shutil
import socket
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from servers.databases import Server
from servers.provider import Provider, running_provider
from servers.redis import RedisServer

from llm_proxy.cli.doctor import files, host, provider
from llm_proxy.cli.doctor.command import doctor, examine
from llm_proxy.cli.doctor.database import cause
from llm_proxy.cli.doctor.finding import Finding, Patient
from llm_proxy.crypto import KeyRing
from llm_proxy.db import migrate
from llm_proxy.db.engine import create_engine
from llm_proxy.settings import load
from llm_proxy.settings.load import SAMPLE_MANAGEMENT_TOKEN

KEY, OTHER_KEY = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
PROVIDER_KEY = "sk-a-provider-key-0123456789abcdef"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """A provider that demands the right key."""
    folder = tmp_path_factory.mktemp("provider")
    (folder / "key").write_text(PROVIDER_KEY)
    with running_provider(folder, "--interval", "0", "--key", f"@{folder / 'key'}") as provider:
        yield provider
        provider.set_rules()


@dataclass
class Installation:
    """A healthy installation in a folder, to be made ill."""

    folder: Path
    variables: dict[str, str]
    provider: Provider
    patch: pytest.MonkeyPatch
    undo: contextlib.ExitStack

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return Path(self.variables["DATABASE_PATH"])

    def execute(self, statement: str, *values: object) -> None:
        """Change the database behind the program's back."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute(statement, values)

    def findings(self) -> list[Finding]:
        """What the doctor says."""
        for name, value in self.variables.items():
            self.patch.setenv(name, value)
        env_file = self.folder / ".env"
        return list(examine(Patient(load(self.variables, env_file if env_file.exists() else None), str(env_file))))


@pytest.fixture
def healthy(tmp_path: Path, simulated: Provider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """Migrated, one project with a sealed key that the provider accepts, nothing to complain about."""
    simulated.set_rules()
    monkeypatch.chdir(tmp_path)
    variables = {
        "MANAGEMENT_TOKEN": "a-management-token-of-the-tests",
        "ENCRYPTION_KEY": KEY,
        "DATABASE_PATH": str(tmp_path / "data" / "llm-proxy.db"),
        "AUDIT_LOG_FILE": str(tmp_path / "data" / "audit.log"),
        "OPENAI_API_URL": simulated.url,
        "LISTEN_ADDR": f"127.0.0.1:{_free_port()}",
    }
    settings = load(variables).settings
    engine = create_engine(settings)
    migrate.up(engine, 10)
    engine.dispose()
    with contextlib.ExitStack() as undo:
        found = Installation(tmp_path, variables, simulated, monkeypatch, undo)
        found.execute(
            "INSERT INTO projects (id, name, api_key, is_active, created_at, updated_at) VALUES (?, ?, ?, 1, ?, ?)",
            *("p1", "team", KeyRing.of(settings).seal(PROVIDER_KEY, "p1")),
            *["2026-01-01 00:00:00.000000"] * 2,
        )
        yield found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


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
    """A place that nobody can write to, root included: below what is no folder."""

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
    installation.patch.setattr(files.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))


def _another_owner(installation: Installation) -> None:
    installation.patch.setattr(os, "geteuid", lambda: 12345)


def _clock_of_1970(installation: Installation) -> None:
    installation.patch.setattr(host.time, "time", lambda: 100_000.0)


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


def _answers(payload: bytes, name: str = "OPENAI_API_URL", form: str = "http://{}") -> Callable[[Installation], None]:
    """Something in another's place that says this to everybody."""

    def sow(installation: Installation) -> None:
        listener = installation.undo.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        client.settimeout(5)
                        client.recv(4096)
                        client.sendall(payload)

        threading.Thread(target=serve, daemon=True).start()
        installation.undo.callback(listener.shutdown, socket.SHUT_RDWR)
        installation.variables[name] = form.format(f"127.0.0.1:{listener.getsockname()[1]}")

    return sow


BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


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
    ("provider.tls", _answers(BAD_REQUEST, form="https://{}")),
    ("provider.not-http", _answers(b"SSH-2.0-OpenSSH\r\n")),
    ("provider.proxy", _set(HTTP_PROXY="http://127.0.0.1:1", NO_PROXY="")),
    ("provider.unavailable", _rules(status=503)),
    ("provider.redirects", _rules(redirect="/elsewhere")),
    ("provider.key-refused", _rules(path="/v1/models", nth=[2], status=401)),
    ("provider.rate-limited", _rules(path="/v1/models", nth=[2], status=429)),
    ("clock.provider", _answers(f"HTTP/1.1 401 x\r\nDate: {_of(2001)}\r\nContent-Length: 0\r\n\r\n".encode())),
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


# -- servers that are there, but not as wanted ------------------------------------------------------------------------


def _named(installation: Installation) -> set[str]:
    return {finding.code for finding in installation.findings() if finding.level == "fault"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("/nowhere?", "/no_such_db?"), "database.no-such-database"),
        (("127.0.0.1", "no-such-host.invalid"), "database.unknown-host"),
        (("sslmode=disable", "sslmode=require"), "database.tls"),
        (("sslmode=disable", "sslmode=perhaps"), "database.url"),
    ],
)
def test_postgresql_faults(healthy: Installation, postgres_server: Server, change: tuple[str, str], code: str) -> None:
    """A real server; password, database, host, TLS and option at fault are told apart, none shown."""
    url = postgres_server.url("nowhere").replace(*change)
    healthy.variables.update(DB_DRIVER="postgres", DATABASE_URL=url)
    assert code in _named(healthy)
    assert "se/cr@t" not in repr(healthy.findings())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("se/cr@t:1", "wrong"), "database.authentication"),
        (("parseTime=true", "parseTime=true&tls=true"), "database.tls"),
        (("127.0.0.1", "no-such-host.invalid"), "database.unknown-host"),
    ],
)
def test_mariadb_faults(healthy: Installation, mysql_server: Server, change: tuple[str, str], code: str) -> None:
    """The same for MariaDB."""
    url = mysql_server.url("nowhere").replace(*change)
    healthy.variables.update(DB_DRIVER="mysql", DATABASE_URL=url)
    assert code in _named(healthy)


@pytest.mark.parametrize(
    ("driver", "form"), [("postgres", "postgres://u:p@127.0.0.1:1/d"), ("mysql", "u:p@tcp(127.0.0.1:1)/d")]
)
def test_database_servers_that_are_away(healthy: Installation, driver: str, form: str) -> None:
    """Nobody listens: refused, whatever the driver."""
    healthy.variables.update(DB_DRIVER=driver, DATABASE_URL=form)
    assert "database.refused" in _named(healthy)


def test_redis_faults(healthy: Installation, redis_server: RedisServer) -> None:
    """A server that wants a password, a replica, one that evicts; and none at all."""
    healthy.variables.update(LLM_PROXY_EVENT_BUS="redis-streams", REDIS_ADDR=redis_server.addr)
    client = redis_server.client()
    codes = {finding.code for finding in healthy.findings()}
    assert {"redis", "clock.redis"} <= codes
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    assert "redis.evicts" in {finding.code for finding in healthy.findings()}
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    assert "redis.replica" in _named(healthy)
    client.execute_command("REPLICAOF", "NO", "ONE")
    client.config_set("requirepass", "secret-of-redis")
    assert "redis.authentication" in _named(healthy)
    healthy.variables["REDIS_PASSWORD"] = "wrong"
    assert "redis.authentication" in _named(healthy)
    healthy.variables["REDIS_PASSWORD"] = "secret-of-redis"
    assert not {code for code in _named(healthy) if code.startswith("redis.")}
    assert "secret-of-redis" not in repr(healthy.findings())
    client.close()
    for addr, code in (("127.0.0.1:1", "redis.refused"), ("no-such-host.invalid:6379", "redis.unknown-host")):
        healthy.variables["REDIS_ADDR"] = addr
        assert code in _named(healthy)


def test_what_answers_is_no_redis(healthy: Installation) -> None:
    """A web server in Redis' place."""
    healthy.variables["LLM_PROXY_EVENT_BUS"] = "redis-streams"
    _answers(BAD_REQUEST, "REDIS_ADDR", "{}")(healthy)
    assert "redis.not-redis" in _named(healthy)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (
            'connection to server at "127.0.0.1", port 5 failed: FATAL:  password authentication failed for user "u"',
            "authentication",
        ),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "u", database "d", no encryption', "authentication"),
        ('FATAL:  database "d" does not exist', "no-such-database"),
        ('could not translate host name "db" to address: Name or service not known', "unknown-host"),
        ('connection to server at "10.0.0.1", port 5432 failed: timeout expired', "timeout"),
        ("server does not support SSL, but SSL was required", "tls"),
        ("SSL error: certificate verify failed", "tls"),
        ("(1045, \"Access denied for user 'u'@'localhost' (using password: YES)\")", "authentication"),
        ("(1049, \"Unknown database 'd'\")", "no-such-database"),
        ("(2003, \"Can't connect to MySQL server on '127.0.0.1' ([Errno 111] Connection refused)\")", "refused"),
    ],
)
def test_words_of_drivers(words: str, code: str) -> None:
    """What drivers say, as it was seen; ours says less."""
    finding = cause(RuntimeError(words), "postgres")
    assert finding.code == f"database.{code}"
    assert "127.0.0.1" not in finding.what + finding.remedy


def test_unknown_words_of_a_driver_are_not_shown() -> None:
    """What is not foreseen is named by kind, because a driver's words may hold anything."""
    finding = cause(RuntimeError("host=db user=u secret=s3cret"), "postgres")
    assert finding.code == "database.error"
    assert "s3cret" not in finding.what


# -- the command ------------------------------------------------------------------------------------------------------


def test_command_and_bundle(healthy: Installation) -> None:
    """Exit code 0 and 1; the bundle is for its owner alone, and holds no secret of settings or log."""
    log = healthy.folder / "proxy.log"
    log.write_text(f'{{"authorization":"Bearer {PROVIDER_KEY}"}}\nthis is a-management-token-of-the-tests\n')
    healthy.variables["LOG_FILE"] = str(log)
    runner = CliRunner(env=healthy.variables)
    well = runner.invoke(doctor, ["--bundle", "bundle.json"])
    assert well.exit_code == 0, well.output
    assert "Nothing is wrong." in well.stdout
    path = healthy.folder / "bundle.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    content = json.loads(text)
    assert set(content) == {"version", "python", "platform", "packages", "findings", "settings", "log"}
    assert content["settings"]["MANAGEMENT_TOKEN"]["value"] == "set"
    assert not [secret for secret in (PROVIDER_KEY, KEY, "a-management-token-of-the-tests") if secret in text]
    again = runner.invoke(doctor, ["--bundle", "bundle.json"])
    assert again.exit_code == 1
    assert "cannot write bundle.json: File exists" in again.stderr
    healthy.variables["ENCRYPTION_KEY"] = OTHER_KEY
    ill = CliRunner(env=healthy.variables).invoke(doctor, ["--json"])
    assert ill.exit_code == 1
    found = {finding["code"]: finding for finding in json.loads(ill.stdout)}
    assert found["keys.unknown"]["level"] == "fault"


def test_a_check_that_fails_hides_no_other(healthy: Installation) -> None:
    """An error inside one side is a finding; all others are still looked at."""
    healthy.patch.setattr(files.shutil, "disk_usage", lambda _: 1 / 0)
    codes = [finding.code for finding in healthy.findings()]
    assert "doctor.check-failed" in codes
    assert "provider.keys" in codes


def test_it_ends_soon_when_nothing_answers(healthy: Installation) -> None:
    """A provider that accepts and says nothing costs its time limit, no more."""
    assert sum(provider._TIMEOUT_S) <= 15
    healthy.patch.setattr(provider, "_TIMEOUT_S", (0.5, 0.5))
    silent = healthy.undo.enter_context(socket.create_server(("127.0.0.1", 0)))
    healthy.variables["OPENAI_API_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
    began = time.monotonic()
    assert "provider.timeout" in _named(healthy)
    assert time.monotonic() - began < 10

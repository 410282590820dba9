"""What a session of each engine is like: UTC, exact comparison, matched rows, real TLS."""

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pymysql
import pytest
from sqlalchemy import Engine, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from support.databases import Database, MariaDb, Server, running

from llm_proxy.db.engine import connector_of_settings, create_engine, unhurried
from llm_proxy.db.errors import DatabaseFault, in_words, is_unavailable
from llm_proxy.db.models import ProjectRow
from llm_proxy.db.prepare import prepare
from llm_proxy.db.session import write_transaction
from llm_proxy.settings import Settings, StorageSettings


def _project(engine: Engine, **values: object) -> None:
    now = datetime.now(UTC)
    row = {"id": "p", "name": "n", "api_key": "k", "created_at": now, "updated_at": now, **values}
    with engine.begin() as connection:
        connection.execute(insert(ProjectRow), row)


def test_times_are_instants(engine: Engine) -> None:
    """A time comes back as the same instant in UTC, to the microsecond, also in the hour that clocks repeat."""
    at = datetime(2026, 10, 25, 1, 30, 0, 123456, tzinfo=UTC)
    for n, shift in enumerate((0, 1)):
        _project(engine, id=str(n), name=str(n), created_at=at + timedelta(hours=shift))
    column = ProjectRow.__table__.c.created_at
    with engine.connect() as connection:
        assert connection.execute(select(column).order_by(column)).scalars().all() == [at, at + timedelta(hours=1)]
        assert connection.execute(select(column).where(column > at)).scalars().all() == [at + timedelta(hours=1)]


def test_the_databases_own_clock_is_utc(engine: Engine) -> None:
    """A default of the schema is the present instant, although the server's zone is another one."""
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO projects (id, name, api_key) VALUES ('d', 'd', 'k')"))
        created_at = connection.execute(select(ProjectRow.__table__.c.created_at)).scalar_one()
    assert abs(created_at - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("other", ["N", "n ", "ｎ", "ñ"])
def test_comparison_is_exact(engine: Engine, other: str) -> None:
    """Case, width, accents and blanks make another name; only MySQL's PAD SPACE takes trailing blanks for none."""
    _project(engine)
    if other == "n " and engine.dialect.name == "mysql":
        with pytest.raises(IntegrityError):
            _project(engine, id="q", name=other)
        return
    _project(engine, id="q", name=other)
    name = ProjectRow.__table__.c.name
    with engine.connect() as connection:
        assert connection.execute(select(ProjectRow.__table__.c.id).where(name == other)).scalars().all() == ["q"]


def test_an_update_counts_what_it_found(engine: Engine) -> None:
    """A row that is so already counts as found, on MySQL too."""
    _project(engine)
    with engine.begin() as connection:
        assert connection.execute(update(ProjectRow).values(name="n")).rowcount == 1


def test_checks_hold(engine: Engine) -> None:
    """What the schema forbids is refused by each engine."""
    with pytest.raises(DBAPIError):
        _project(engine, event_privacy="odd")


def test_a_write_is_whole_or_nothing(engine: Engine) -> None:
    """An exception in the block undoes it."""

    def fail() -> None:
        with write_transaction(engine) as connection:
            connection.execute(text("INSERT INTO projects (id, name, api_key) VALUES ('d', 'd', 'k')"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with engine.connect() as connection:
        assert connection.execute(select(ProjectRow.__table__.c.id)).all() == []


@pytest.mark.parametrize("ready_database", ["postgres", "mysql"], indirect=True)
def test_a_wrong_password_is_said_without_it(ready_database: Database) -> None:
    """The words for an operator hold neither address nor secret."""
    url = str(ready_database.values["storage.url"])
    if ready_database.driver == "postgres":
        url = url.rpartition("/")[0] + "/no_such_database"
    else:
        url = url.replace("se/cr@t:1", "wr0ng")
    with pytest.raises((psycopg2.Error, pymysql.err.MySQLError)) as caught:
        connector_of_settings(StorageSettings(url=url)).connect()
    assert in_words(caught.value) in ("user or password is wrong", "there is no such database or user")


@pytest.mark.parametrize("ready_database", ["postgres", "mysql"], indirect=True)
@pytest.mark.parametrize("option", ["foo=1", "application_name=x&lock_wait_timeout=none&foo.bar.baz=1", "ssl=true"])
def test_an_option_that_the_server_refuses_is_named(ready_database: Database, option: str) -> None:
    """It cures itself by no retry, so it is a fault of DATABASE_URL at once, as one that no driver knows."""
    url = f"{ready_database.values['storage.url']}&{option}"
    with pytest.raises(DatabaseFault, match=r"^DATABASE_URL: option (foo|ssl|lock_wait_timeout|foo.bar.baz|applicat)"):
        connector_of_settings(StorageSettings(url=url)).connect()


@pytest.mark.parametrize("tls", ["true", "skip-verify"])
def test_mysql_without_tls_is_refused_when_tls_is_asked_for(mysql_server: Server, tls: str) -> None:
    """A server without TLS: the connection is dropped, not continued in clear; `preferred` goes on."""
    url = mysql_server.url("mysql").replace("parseTime=true", f"tls={tls}")
    with pytest.raises(pymysql.err.OperationalError) as caught:
        connector_of_settings(StorageSettings(url=url)).connect()
    assert in_words(caught.value) == "TLS could not be set up"
    connector_of_settings(StorageSettings(url=url.replace(f"tls={tls}", "tls=preferred"))).connect().close()


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_postgres_without_tls_is_refused_when_tls_is_asked_for(postgres_server: Server, mode: str) -> None:
    """The same for PostgreSQL; `prefer` goes on in clear, as libpq has it."""
    url = postgres_server.url("postgres").replace("sslmode=disable", f"sslmode={mode}")
    with pytest.raises(psycopg2.OperationalError) as caught:
        connector_of_settings(StorageSettings(url=url)).connect()
    assert is_unavailable(caught.value)
    assert in_words(caught.value) == "TLS could not be set up"
    connector_of_settings(StorageSettings(url=url.replace(mode, "prefer"))).connect().close()


class _TlsMariaDb(MariaDb):
    """MariaDB with a certificate for 127.0.0.1 of an authority of the test's."""

    def command(self) -> list[str]:
        plain = [word for word in super().command() if word != "--skip-ssl"]
        files = {"--ssl-cert": "cert.pem", "--ssl-key": "key.pem", "--ssl-ca": "ca.pem"}
        return [*plain, *(f"{option}={self.folder / name}" for option, name in files.items())]

    def create(self) -> None:
        super().create()
        _certificate(self.folder)


def _certificate(folder: Path) -> None:
    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    openssl(
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-subj",
        "/CN=CA",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",  # demanded by Python 3.13 (VERIFY_X509_STRICT)
        "-days",
        "2",
    )
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.csr", "-subj", "/CN=127.0.0.1")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
    authority = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
    openssl("x509", "-req", "-in", "cert.csr", *authority, "-out", "cert.pem", "-days", "2", "-extfile", "names")
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (folder / name).chmod(0o644)


@pytest.fixture(scope="module")
def tls_server() -> Iterator[Server]:
    """A MariaDB that speaks TLS."""
    with running(_TlsMariaDb) as server:
        yield server


def test_mysql_tls_is_encrypted_and_verified(tls_server: Server) -> None:
    """`custom` verifies by DATABASE_TLS_CA, `skip-verify` and `preferred` only encrypt, `true` asks the system."""
    url = tls_server.url("mysql").replace("parseTime=true", "tls={}")

    def cipher(tls: str, ca: Path | None = None) -> str:
        settings = Settings(storage=StorageSettings(url=url.format(tls), tls_ca=ca))
        connection = connector_of_settings(settings.storage).connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
                return str(cursor.fetchone()[1])
        finally:
            connection.close()

    ca = tls_server.folder / "ca.pem"
    assert cipher("custom", ca)
    assert cipher("skip-verify")
    assert cipher("preferred")
    assert cipher("false") == ""
    with pytest.raises(pymysql.err.OperationalError) as caught:
        cipher("true")
    assert in_words(caught.value).startswith("TLS could not be set up: ")
    other = tls_server.folder / "other"
    other.mkdir()
    _certificate(other)
    with pytest.raises(pymysql.err.OperationalError):
        cipher("custom", other / "ca.pem")


@pytest.mark.parametrize("ready_database", ["postgres", "mysql"], indirect=True)
def test_long_work_has_no_limits(ready_database: Database) -> None:
    """Migrations run without the limits that serving has."""
    engine = ready_database.engine()
    with unhurried(engine).connect() as connection:
        if ready_database.driver == "postgres":
            names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
            assert [connection.execute(text(f"SHOW {name}")).scalar() for name in names] == ["0", "0", "0"]
        else:
            assert connection.connection.dbapi_connection._read_timeout is None  # type: ignore[union-attr]
    with engine.connect() as connection:
        if ready_database.driver == "postgres":
            assert connection.execute(text("SHOW statement_timeout")).scalar() == "30s"
        else:
            assert connection.connection.dbapi_connection._read_timeout == 30  # type: ignore[union-attr]


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    """A folder in the file's place and a file that is no database stop the start with words that fit."""
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "text.db").write_text("no database" * 100)
    for name, said in (("folder.db", "the file can't be opened"), ("text.db", "the file is no SQLite database")):
        settings = Settings(storage=StorageSettings(path=str(tmp_path / name)))
        with pytest.raises(DatabaseFault, match=said):
            prepare(create_engine(settings.storage), settings.storage)

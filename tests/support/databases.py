"""Real PostgreSQL and MariaDB servers on free loopback ports in throw-away folders, and an empty database a test.

They are started once a session, as an unprivileged user, when the first test asks for them. Nothing is skipped: a
missing program fails the test with what to install.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import pymysql
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from support.processes import StoppableServer, free_port

from llm_proxy.db import migrate
from llm_proxy.db.engine import create_engine
from llm_proxy.db.models import Base
from llm_proxy.settings import Settings

DRIVERS = ("sqlite", "postgres", "mysql")
START_LIMIT_S = 60
_INSTALL = "apt-get install postgresql mariadb-server"


class Server(StoppableServer):
    """A database server that a test can stop, kill and start again on the same port and folder."""

    name = ""
    stop_signal = signal.SIGQUIT

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()

    def command(self) -> list[str]:
        """What is run."""
        raise NotImplementedError

    def create(self) -> None:
        """Make the data folder."""
        raise NotImplementedError

    def run(self, statement: str, database: str = "") -> None:
        """A statement as the superuser, outside a transaction."""
        raise NotImplementedError

    def url(self, database: str) -> str:
        """DATABASE_URL of one database."""
        raise NotImplementedError

    def start(self) -> None:
        """Start, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = _as_nobody(self.command(), log, self.folder)
        deadline = time.monotonic() + START_LIMIT_S
        while not self.is_serving():
            assert self._process.poll() is None, (self.folder / "log").read_text()[-4000:]
            assert time.monotonic() < deadline, (self.folder / "log").read_text()[-4000:]
            time.sleep(0.05)

    def is_serving(self) -> bool:
        """Whether a statement works."""
        try:
            # First without a driver: PyMySQL leaves a socket behind that could not be connected.
            socket.create_connection(("127.0.0.1", self.port), 3).close()
            self.run("SELECT 1")
        except (psycopg2.Error, pymysql.err.MySQLError, OSError):
            return False
        return True


class Postgres(Server):
    """postgres, without fsync."""

    name = "postgres"

    def create(self) -> None:
        """initdb; the superuser is `proxy`."""
        _finish(
            [_program("initdb"), "-D", str(self.folder / "data"), "-U", "proxy", "--auth=trust", "--encoding=UTF8",
             "--locale=C.UTF-8", "--no-sync"],
            self.folder,
        )  # fmt: skip

    def command(self) -> list[str]:
        """The server in the foreground."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "400",
            "timezone": "Asia/Kolkata",  # the connection's has to be UTC all the same
        }
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [_program("postgres"), "-D", str(self.folder / "data"), *words]

    def run(self, statement: str, database: str = "postgres") -> None:
        """See `Server`."""
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="proxy", dbname=database or "postgres", connect_timeout=3
        )
        connection.autocommit = True
        _execute(connection, statement)

    def url(self, database: str) -> str:
        """See `Server`."""
        return f"postgres://proxy:se/cr@t#1@127.0.0.1:{self.port}/{database}?sslmode=disable"


class MariaDb(Server):
    """mariadbd, which writes each commit and flushes none: it survives a crash of the process."""

    name = "mysql"

    def create(self) -> None:
        """mariadb-install-db; root needs no password on the socket."""
        _finish(
            [_program("mariadb-install-db"), "--no-defaults", f"--datadir={self.folder / 'data'}",
             "--auth-root-authentication-method=normal", "--skip-test-db", f"--tmpdir={self.folder}"],
            self.folder,
        )  # fmt: skip

    def command(self) -> list[str]:
        """The server in the foreground."""
        return [
            _program("mariadbd"), "--no-defaults", f"--datadir={self.folder / 'data'}",
            f"--socket={self.folder / 'socket'}", f"--pid-file={self.folder / 'pid'}", f"--port={self.port}",
            "--bind-address=127.0.0.1", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=32M", "--performance-schema=off", "--max-connections=200",
            "--innodb-doublewrite=0", "--default-time-zone=+05:30", "--collation-server=utf8mb4_unicode_ci",
            "--skip-ssl", "--character-set-server=utf8mb4", f"--tmpdir={self.folder}",
        ]  # fmt: skip

    def start(self) -> None:
        """Start; a user for the tests is made at the first one."""
        super().start()
        self.run("CREATE USER IF NOT EXISTS 'proxy'@'127.0.0.1' IDENTIFIED BY 'se/cr@t:1'")
        self.run("GRANT ALL ON *.* TO 'proxy'@'127.0.0.1'")

    def run(self, statement: str, database: str = "") -> None:
        """See `Server`."""
        connection = pymysql.connect(
            unix_socket=str(self.folder / "socket"), user="root", database=database or None, connect_timeout=3,
            autocommit=True,
        )  # fmt: skip
        _execute(connection, statement)

    def url(self, database: str) -> str:
        """See `Server`."""
        return f"proxy:se/cr@t:1@tcp(127.0.0.1:{self.port})/{database}?parseTime=true"


def _execute(connection: Any, statement: str) -> None:
    """Run one statement, and close the connection."""
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(statement)


@dataclass
class Database:
    """An empty database for one test.

    Attributes:
        driver: `sqlite`, `postgres` or `mysql`.
        server: Its server; None for SQLite.
        values: The settings that lead to it, by path.
    """

    driver: str
    values: dict[str, Any]
    server: Server | None = None
    engines: list[Engine] = field(default_factory=list)

    def settings(self, more: Mapping[str, Any] | None = None) -> Settings:
        """Return the settings of a process that uses it; `more` are further values, by path."""
        return Settings.from_paths({**self.values, **(more or {})})

    def environ(self) -> dict[str, str]:
        """The same as environment variables."""
        names = {"storage.db_driver": "DB_DRIVER", "storage.url": "DATABASE_URL", "storage.path": "DATABASE_PATH"}
        return {names[name]: str(value) for name, value in self.values.items()}

    def engine(self) -> Engine:
        """A new engine, disposed of at the end of the test."""
        engine = create_engine(self.settings().storage)
        self.engines.append(engine)
        return engine

    def migrated(self) -> Engine:
        """A new engine; the schema is at head."""
        engine = self.engine()
        migrate.up(engine, 30)
        return engine

    def close(self) -> None:
        """Release all connections."""
        for engine in self.engines:
            engine.dispose()


@contextlib.contextmanager
def running(kind: type[Server]) -> Iterator[Server]:
    """A started server for the length of a `with`, in its own folder."""
    folder = Path(tempfile.mkdtemp(prefix="llm-proxy-tests-"))
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody")
        os.chown(folder, user.pw_uid, user.pw_gid)
    server = kind(folder)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def empty_database(driver: str, server: Server | None, folder: Path) -> Iterator[Database]:
    """A database with nothing in it, dropped afterwards."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    if server is None:
        database = Database(driver, {"storage.path": str(folder / f"{name}.db")})
    else:
        server.run(f"CREATE DATABASE {name}")
        database = Database(driver, {"storage.db_driver": driver, "storage.url": server.url(name)}, server)
    try:
        yield database
    finally:
        database.close()
        if server is not None:
            force = " WITH (FORCE)" if driver == "postgres" else ""
            server.run(f"DROP DATABASE IF EXISTS {name}{force}")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """One PostgreSQL for all tests that leave it alone."""
    with running(Postgres) as server:
        yield server


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[Server]:
    """One MariaDB for all tests that leave it alone."""
    with running(MariaDb) as server:
        yield server


@pytest.fixture(params=DRIVERS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database on each engine in turn."""
    driver: str = request.param
    server = None if driver == "sqlite" else request.getfixturevalue(f"{driver}_server")
    with empty_database(driver, server, tmp_path) as found:
        yield found


class Stock:
    """Migrated databases without a row, quicker than migrating one for each test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[str, Database] = {}

    @contextlib.contextmanager
    def lend(self, driver: str, server: Server | None) -> Iterator[Database]:
        """One for a test: a copy of a file, or a server's own, emptied afterwards, which is quicker than a copy."""
        kept = self._kept.get(driver) or self._make(driver, server)
        lent = Database(driver, kept.values, server)
        if server is None:
            path = self._folder / f"{uuid.uuid4().hex}.db"
            shutil.copyfile(kept.values["storage.path"], path)
            lent = Database(driver, {"storage.path": str(path)})
        try:
            yield lent
        finally:
            lent.close()
            if server is not None and not _emptied(kept):
                del self._kept[driver]  # the test broke it

    def _make(self, driver: str, server: Server | None) -> Database:
        name = f"k_{uuid.uuid4().hex[:12]}"
        if server is None:
            made = Database(driver, {"storage.path": str(self._folder / f"{name}.db")})
        else:
            server.run(f"CREATE DATABASE {name}")
            made = Database(driver, {"storage.db_driver": driver, "storage.url": server.url(name)}, server)
        engine = made.migrated()
        if server is None:
            with engine.connect() as connection:
                connection.exec_driver_sql("COMMIT")  # a checkpoint finds no open transaction of this process
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        made.close()
        self._kept[driver] = made
        return made


_ALONE = {  # what a test left behind must not hold up the next one
    "mysql": "SET SESSION innodb_lock_wait_timeout = 10",
    "postgres": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()",
}


def _emptied(database: Database) -> bool:
    """Empty every table; False when one is not there any more."""
    engine = create_engine(database.settings().storage)
    try:
        with engine.begin() as connection:
            connection.execute(text(_ALONE[database.driver]))
            for table in reversed(Base.metadata.sorted_tables):
                if table.name != "instance":
                    connection.execute(text(f"DELETE FROM {table.name}"))
            return migrate.version(connection) == migrate.head()
    except DBAPIError:
        return False
    finally:
        engine.dispose()


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """Migrated databases to lend."""
    return Stock(tmp_path_factory.mktemp("stock"))


@pytest.fixture(params=DRIVERS)
def ready_database(request: pytest.FixtureRequest, stock: Stock) -> Iterator[Database]:
    """A migrated database without a row on each engine in turn."""
    driver: str = request.param
    server = None if driver == "sqlite" else request.getfixturevalue(f"{driver}_server")
    with stock.lend(driver, server) as found:
        yield found


@pytest.fixture
def engine(ready_database: Database) -> Engine:
    """An engine of a migrated database."""
    return ready_database.engine()


on_sqlite = pytest.mark.parametrize("ready_database", ["sqlite"], indirect=True)  # for what no other engine decides


def _program(name: str) -> str:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in (*map(Path, os.environ["PATH"].split(os.pathsep)), *folders, Path("/usr/sbin")):
        if os.access(folder / name, os.X_OK):
            return str(folder / name)
    raise AssertionError(f"{name} is not installed: {_INSTALL}")


def _as_nobody(command: list[str], log: Any, folder: Path) -> subprocess.Popen[bytes]:
    who: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody")
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    return subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environ, start_new_session=True, **who)


def _finish(command: list[str], folder: Path) -> None:
    with (folder / "log").open("ab") as log:
        assert _as_nobody(command, log, folder).wait(120) == 0, (folder / "log").read_text()

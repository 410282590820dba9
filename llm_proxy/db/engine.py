"""From settings to an engine: driver, pool, transactions."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

from llm_proxy.db import sqlite
from llm_proxy.db.connector import Connector, connector_of, remember
from llm_proxy.db.urls import Address, UrlFault, parse
from llm_proxy.settings import StorageSettings

_TWO_PASSWORDS = "DATABASE_PASSWORD has no effect: DATABASE_URL has its own password"
READS = "llm_proxy_reads"  # execution option: the transaction writes nothing


def create_engine(settings: StorageSettings) -> Engine:
    """Return the engine of the configured database. Opens no connection; make one in each process, after the fork.

    Raises:
        DatabaseFault: The connection string asks for something that can't be honoured; names the option.
    """
    return engine_of(connector_of_settings(settings), settings)


def connector_of_settings(settings: StorageSettings) -> Connector:
    """Return the connector of the configured database. Raises DatabaseFault."""
    if settings.driver == "sqlite":
        return sqlite.connector(settings.path)
    address = parse(settings.url or "")
    if address.driver != settings.driver:
        raise UrlFault(f"expected the form of {settings.driver}, because DB_DRIVER says so")
    made = _server_connector(address, settings)
    if address.password and settings.password:
        return replace(made, warnings=(*made.warnings, _TWO_PASSWORDS))
    return made


def _server_connector(address: Address, settings: StorageSettings) -> Connector:
    """Import the one driver that is needed: psycopg2 with its libraries takes 5 MiB."""
    if address.driver == "postgres":
        from llm_proxy.db import postgres

        return postgres.connector(address, settings)
    from llm_proxy.db import mysql

    return mysql.connector(address, settings)


def engine_of(connector: Connector, settings: StorageSettings) -> Engine:
    """Return an engine over a connector, with a bounded pool (docs/databases.md, Connections)."""
    return _made(connector, connector.connect, **_pool_options(connector, settings))


def _made(connector: Connector, connect: Callable[[], Any], **options: Any) -> Engine:
    engine = sqlalchemy.create_engine(connector.url, creator=connect, hide_parameters=True, **options)
    if connector.dialect == "sqlite":
        event.listen(engine, "begin", _begin_sqlite)
    remember(engine, connector)
    return engine


def unhurried(engine: Engine) -> Engine:
    """Return an engine for long work: no limits for statements, no pool. `:memory:` has only itself."""
    connector = connector_of(engine)
    if connector.is_single:
        return engine
    return _made(connector, connector.unhurried or connector.connect, poolclass=NullPool)


def off_loop(engine: Engine) -> Engine:
    """Return an engine of the same database whose statements never stop the event loop; it has few connections."""
    connector = connector_of(engine)
    if connector.off_loop is None:
        return engine
    return _made(connector, connector.off_loop, poolclass=QueuePool, pool_size=1, max_overflow=1)


def _pool_options(connector: Connector, settings: StorageSettings) -> dict[str, Any]:
    if connector.is_single:
        return {"poolclass": StaticPool}
    idle = min(settings.max_idle_conns, settings.pool_size)
    return {
        "poolclass": QueuePool,
        "pool_size": idle,
        "max_overflow": settings.pool_size - idle,
        "pool_timeout": settings.pool_timeout_s,
        "pool_recycle": settings.conn_max_lifetime_s or -1,
        "pool_pre_ping": connector.dialect != "sqlite",
        "pool_use_lifo": True,
    }


def _begin_sqlite(connection: Connection) -> None:
    """Writers queue at BEGIN: a transaction that reads first and writes later could not be repeated."""
    reads = connection.get_execution_options().get(READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

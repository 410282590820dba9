"""How a process opens connections of one database; what an Engine and the bare statements share."""

import select
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from gevent import monkey
from sqlalchemy import Engine

Connect = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Connector:
    """Opens driver connections that are ready for use.

    Attributes:
        dialect: `sqlite`, `postgresql` or `mysql`, as SQLAlchemy calls them.
        url: SQLAlchemy's URL without address and credentials: it only chooses dialect and driver.
        connect: Opens a connection, session settings done. Raises the driver's errors.
        where: The database in words that may be shown: a path, or host and name. Never a user or password.
        is_single: One connection for the whole process (`:memory:`).
        warnings: What an operator should know about how the connection is made; a line each.
        descriptor: The socket of a connection, None where there is none to look at.
        unhurried: The same as `connect` without limits for statements, for migrations; None = they are the same.
        off_loop: The same as `connect` for long work beside the event loop; None = no call of a connection stops it.
    """

    dialect: str
    url: str
    connect: Connect
    where: str
    is_single: bool = False
    warnings: tuple[str, ...] = ()
    descriptor: Callable[[Any], int] | None = None
    unhurried: Connect | None = None
    off_loop: Connect | None = None

    def is_alive(self, connection: Any) -> bool:
        """Whether a kept connection looks usable: one that is idle and has something to read was closed."""
        if self.descriptor is None:
            return True
        try:
            watch = select.poll()
            watch.register(self.descriptor(connection), select.POLLIN)
            return not watch.poll(0)
        except Exception:  # closed on this side already: each driver says so with its own error
            return False


_CONNECTORS: WeakKeyDictionary[Engine, Connector] = WeakKeyDictionary()


def remember(engine: Engine, connector: Connector) -> None:
    """Note which connector an engine was made from."""
    _CONNECTORS[engine] = connector


def connector_of(engine: Engine) -> Connector:
    """Return the connector that the engine was made from. Raises KeyError for engines of others."""
    return _CONNECTORS[engine]


def is_cooperative() -> bool:
    """Whether this process runs under gevent, so that no call may wait in C."""
    return bool(monkey.is_module_patched("socket"))

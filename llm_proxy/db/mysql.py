"""MySQL and MariaDB connections by PyMySQL: options of Go DSNs, TLS that is really there, UTC."""

import logging
import re
import ssl
from typing import Any

import pymysql
from pymysql.constants import CLIENT, CR

from llm_proxy.db.connector import Connector
from llm_proxy.db.urls import Address, OptionFault, UrlFault
from llm_proxy.settings import StorageSettings
from llm_proxy.settings.variable import duration_s, size_bytes

_LOG = logging.getLogger(__name__)

_IGNORED = {
    "parseTime", "allowNativePasswords", "interpolateParams", "multiStatements", "clientFoundRows",
    "checkConnLiveness", "rejectReadOnly", "compress", "columnsWithAlias", "serverPubKey",
}  # fmt: skip
_TIMEOUTS = {
    "timeout": ("connect_timeout", 10.0),
    "readTimeout": ("read_timeout", 30.0),
    "writeTimeout": ("write_timeout", 30.0),
}
_TLS = ("false", "true", "skip-verify", "preferred", "custom")
_SESSION = {  # of every session; the first three can't be changed
    "time_zone": "+00:00",
    "sql_mode": "STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION",
    "innodb_lock_wait_timeout": 10,
}
_REFUSED = (
    (1064,),
    (1193,),
    (1227,),
    (1228,),
    (1229,),
    (1231,),
    (1232,),
    (1238,),
)  # no such variable, or no such value
_FIXED = ("time_zone", "sql_mode", "tx_isolation", "transaction_isolation", "autocommit", "character_set_client")


class _NoClearPassword:
    """Stands in the way of a server that asks for the password in clear."""

    def __init__(self, connection: Any) -> None:
        pass

    def authenticate(self, packet: Any) -> Any:
        """Refuse."""
        raise pymysql.err.OperationalError(CR.CR_AUTH_PLUGIN_CANNOT_LOAD, "a password in clear was asked for")


def connector(address: Address, settings: StorageSettings) -> Connector:
    """Return the connector of a MySQL or MariaDB database. Raises UrlFault naming an option that isn't supported."""
    reading = _Reading(address, settings)

    def connect(**more: Any) -> Any:
        connection = _open(reading, **more)
        try:
            _begin_session(connection, reading)
        except BaseException:
            connection.close()
            raise
        return connection

    host = address.socket or (address.hosts[0][0] if address.hosts else "") or "127.0.0.1"
    where = f"{host}/{address.database or ''}"
    warnings = tuple(reading.warnings)
    return Connector(
        "mysql",
        "mysql+pymysql://",
        connect,
        where,
        warnings=warnings,
        descriptor=_descriptor,
        unhurried=lambda: connect(read_timeout=None, write_timeout=None),
    )


def _descriptor(connection: Any) -> int:
    return int(connection._sock.fileno())


class _Reading:
    """What the options mean: arguments of PyMySQL, the kind of TLS, settings of the session."""

    def __init__(self, address: Address, settings: StorageSettings) -> None:
        self.warnings: list[str] = []
        self.session: dict[str, Any] = dict(_SESSION)
        options = dict(address.options)
        self.tls = options.pop("tls", "false")
        self._is_clear_allowed = options.pop("allowCleartextPasswords", "false") == "true"
        self.arguments = {**_place(address), **_credentials(address, settings)}
        self._charset(options)
        self._time_limits(options)
        self._packet(options)
        self._rest(options)
        self._secure(settings)

    def _charset(self, options: dict[str, str]) -> None:
        self.arguments["charset"] = options.pop("charset", "utf8mb4").split(",")[0]
        if "collation" in options:
            self.arguments["collation"] = options.pop("collation")

    def _time_limits(self, options: dict[str, str]) -> None:
        for name, (argument, default) in _TIMEOUTS.items():
            try:
                seconds = duration_s(options.pop(name)) if name in options else default
            except ValueError:
                raise UrlFault(f"option {name}: expected a duration such as 30s") from None
            self.arguments[argument] = max(1, round(seconds)) if seconds else None
        if self.arguments["connect_timeout"] is None:
            self.arguments["connect_timeout"] = 31536000  # PyMySQL's own bound

    def _packet(self, options: dict[str, str]) -> None:
        if "maxAllowedPacket" in options:
            try:
                self.arguments["max_allowed_packet"] = size_bytes(options.pop("maxAllowedPacket")) or 64 << 20
            except ValueError:
                raise UrlFault("option maxAllowedPacket: expected a number of bytes") from None

    def _rest(self, options: dict[str, str]) -> None:
        if options.pop("loc", "UTC") != "UTC":
            self.warnings.append("DATABASE_URL: option loc has no effect, times are UTC")
        for name, value in options.items():
            if name in _IGNORED:
                _LOG.debug("DATABASE_URL: option %s has no effect here", name)
            elif not re.fullmatch(r"[a-z_]+", name):
                raise UrlFault(f"option {name} is not known")
            elif name in _FIXED:
                self.warnings.append(f"DATABASE_URL: option {name} has no effect, it is the program's to set")
            else:
                self.session[name] = _literal(value)

    def _secure(self, settings: StorageSettings) -> None:
        if self.tls not in _TLS:
            raise UrlFault(f"option tls: expected one of {', '.join(_TLS)}")
        self.context = _tls_context(self.tls, settings)
        is_verified = self.tls in ("true", "custom")
        if self._is_clear_allowed and not is_verified:
            raise UrlFault("option allowCleartextPasswords: expected tls=true or tls=custom beside it")
        if not self._is_clear_allowed:
            self.arguments["auth_plugin_map"] = {"mysql_clear_password": _NoClearPassword}
        if self.tls == "skip-verify":
            self.warnings.append("DATABASE_URL: tls=skip-verify: the database's certificate is not verified")


def _place(address: Address) -> dict[str, Any]:
    if len(address.hosts) > 1:
        raise UrlFault("expected one host for MySQL")
    if address.socket is not None:
        return {"unix_socket": address.socket}
    host, port = address.hosts[0] if address.hosts else ("", 0)
    return {"host": host or "127.0.0.1", "port": port or 3306}


def _credentials(address: Address, settings: StorageSettings) -> dict[str, Any]:
    if address.database is None:
        raise UrlFault("expected a database name after the address")
    password = address.password if address.password else settings.password or ""
    return {"user": address.user or "", "password": password.encode(), "database": address.database}


def _literal(value: str) -> Any:
    """Return a session variable's value as Go's driver has it: a number, or text that may stand in quotes."""
    if re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def _tls_context(tls: str, settings: StorageSettings) -> ssl.SSLContext | None:
    if tls == "false":
        return None
    if tls == "custom":
        if settings.tls_ca is None:
            raise UrlFault("option tls=custom: expected DATABASE_TLS_CA to be set")
        context = ssl.create_default_context(cafile=str(settings.tls_ca))
        if settings.tls_cert is not None:
            context.load_cert_chain(str(settings.tls_cert), str(settings.tls_key or settings.tls_cert))
        return context
    context = ssl.create_default_context()
    if tls in ("skip-verify", "preferred"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _open(reading: _Reading, **more: Any) -> Any:
    # FOUND_ROWS: an UPDATE counts the rows that it matched, also those that were so already.
    arguments = {**reading.arguments, "client_flag": CLIENT.FOUND_ROWS, "program_name": "llm-proxy", **more}
    if reading.context is None:
        return pymysql.connect(**arguments, ssl_disabled=True)
    try:
        return pymysql.connect(**arguments, ssl=reading.context)
    except pymysql.err.OperationalError as error:
        if reading.tls != "preferred" or error.args[0] != CR.CR_SSL_CONNECTION_ERROR:
            raise
        return pymysql.connect(**arguments, ssl_disabled=True)


def _begin_session(connection: Any, reading: _Reading) -> None:
    with connection.cursor() as cursor:
        if reading.tls in ("true", "skip-verify", "custom"):
            cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
            found = cursor.fetchone()
            if found is None or not found[1]:  # PyMySQL before 1.2 goes on in clear
                raise pymysql.err.OperationalError(CR.CR_SSL_CONNECTION_ERROR, "the server has no TLS")
        _set(cursor, reading.session)
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")


def _set(cursor: Any, session: dict[str, Any]) -> None:
    """All of them at once; where the server refuses, one by one, so that the one it refuses can be named."""
    names = ", ".join(f"{name} = %s" for name in session)
    try:
        cursor.execute(f"SET SESSION {names}", list(session.values()))
    except pymysql.err.MySQLError as error:
        for name, value in session.items():
            try:
                cursor.execute(f"SET SESSION {name} = %s", [value])
            except pymysql.err.MySQLError as refused:
                if refused.args[:1] in _REFUSED and name not in _SESSION:
                    raise OptionFault(name) from error
                raise
        raise

"""PostgreSQL connections by psycopg2: options of users' URLs, UTC, no wait that stops the event loop."""

import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import certifi
import gevent
import psycopg2
from gevent.socket import wait_read, wait_write
from psycopg2 import extensions

from llm_proxy.db.connector import Connector, is_cooperative
from llm_proxy.db.urls import Address, OptionFault, UrlFault
from llm_proxy.settings import StorageSettings

_LOG = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10
LONGEST_SILENCE_S = 40.0  # above statement_timeout: what is silent for longer is a server that hangs
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_LIBPQ = {
    "host", "hostaddr", "dbname", "user", "password", "passfile", "port", "channel_binding", "connect_timeout",
    "client_encoding", "options", "application_name", "fallback_application_name", "keepalives", "keepalives_idle",
    "keepalives_interval", "keepalives_count", "tcp_user_timeout", "gssencmode", "sslmode", "sslcompression",
    "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl", "sslcrldir", "sslsni", "requirepeer",
    "ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib", "target_session_attrs",
}  # fmt: skip
_IGNORED = re.compile(r"default_query_exec_mode|statement_cache_capacity|description_cache_capacity|pool_\w+")
_SERVER_SETTING = re.compile(r"[a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)?")
_SETTINGS = {  # of every session, unless the URL says otherwise
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "2s",
}
# As server and libpq word it: parameter "x", invalid x value, for connection option "x".
_REFUSED_OPTION = re.compile(r'(?:(?<=parameter ")|(?<=option ")|(?<=invalid ))[a-z_][a-z0-9_.]*(?=" | value|"|$)')
_UNHURRIED = "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0"


class _Silence(Exception):
    """A wait has reached its bound."""


def connector(address: Address, settings: StorageSettings) -> Connector:
    """Return the connector of a PostgreSQL database. Raises UrlFault naming an option that isn't supported."""
    words = _words(address, settings)
    hosts = _hosts(address, words)
    if is_cooperative():
        extensions.set_wait_callback(_wait)  # process-wide; the first connection may be of any part
    limit_s = float(words["connect_timeout"])

    named = {name for name, _ in address.options}

    def connect(words: dict[str, str]) -> Any:
        try:
            return within_limit(words)
        except psycopg2.Error as error:
            for name in _REFUSED_OPTION.findall(str(error)):
                if name in named:
                    raise OptionFault(name) from error
            raise

    def within_limit(words: dict[str, str]) -> Any:
        if not is_cooperative():
            return _connect(words, hosts)
        # libpq's own limit does not hold for a connection that is polled.
        with gevent.Timeout(limit_s, psycopg2.OperationalError("the database did not answer in time")):
            return _connect(words, hosts)

    shown = ",".join(host or "local" for host, _ in hosts) or "local"
    where = f"{shown}/{words.get('dbname', words.get('user', ''))}"
    return Connector(
        "postgresql",
        "postgresql+psycopg2://",
        lambda: connect(words),
        where,
        descriptor=_descriptor,
        unhurried=lambda: connect({**words, "options": f"{words['options']} {_UNHURRIED}"}),
    )


def _connect(words: dict[str, str], hosts: list[tuple[str, int]]) -> Any:
    arguments: dict[str, Any] = {**words, **_resolved(hosts, words)}
    return psycopg2.connect(**arguments)


def _descriptor(connection: Any) -> int:
    return int(connection.fileno())


def _words(address: Address, settings: StorageSettings) -> dict[str, str]:
    """libpq's keywords, all but hosts and ports."""
    words = {"connect_timeout": str(CONNECT_TIMEOUT_S), "application_name": "llm-proxy"}
    server = dict(_SETTINGS)
    for name, value in address.options:
        if name in _LIBPQ:
            words[name] = value
        elif _IGNORED.fullmatch(name):
            _LOG.debug("DATABASE_URL: option %s has no effect here", name)
        elif _SERVER_SETTING.fullmatch(name):
            server[name] = value
        else:
            raise UrlFault(f"option {name} is not known")
    for name, given in (("user", address.user), ("password", address.password or None), ("dbname", address.database)):
        if given is not None:
            words[name] = given
    if "password" not in words and settings.password is not None:
        words["password"] = settings.password
    if not words["connect_timeout"].isdigit() or int(words["connect_timeout"]) < 1:
        raise UrlFault("option connect_timeout: expected whole seconds of at least 1")
    server["timezone"] = "UTC"
    asked = [words["options"]] if words.get("options") else []
    words["options"] = " ".join([*asked, *(f"-c {name}={_escaped(value)}" for name, value in server.items())])
    _check_tls(words, settings)
    return words


def _escaped(value: str) -> str:
    """Return a value inside libpq's `options`: blanks and backslashes are escaped."""
    return re.sub(r"([\\\s])", r"\\\1", value)


def _check_tls(words: dict[str, str], settings: StorageSettings) -> None:
    mode = words.get("sslmode")
    if mode is not None and mode not in _SSL_MODES:
        raise UrlFault(f"option sslmode: expected one of {', '.join(_SSL_MODES)}")
    configured = (settings.tls_ca, settings.tls_cert, settings.tls_key)
    for name, path in zip(_FILES, configured, strict=False):
        if path is not None:
            words.setdefault(name, str(path))
    if mode in ("verify-ca", "verify-full") and "sslrootcert" not in words:
        words["sslrootcert"] = _system_bundle()
    for name in _FILES:
        if name in words and words[name] not in ("", "system") and not Path(words[name]).is_file():
            raise UrlFault(f"option {name}: {words[name]} is no existing file")


def _system_bundle() -> str:
    """libpq alone would look for ~/.postgresql/root.crt."""
    found = ssl.get_default_verify_paths().cafile
    return found if found is not None and Path(found).is_file() else certifi.where()


def _hosts(address: Address, words: dict[str, str]) -> list[tuple[str, int]]:
    """Hosts and ports, those of the options included (`?host=/cloudsql/…`)."""
    hosts = list(address.hosts)
    named, ports = words.pop("host", None), words.pop("port", None)
    if named is not None:
        hosts = [(host, 0) for host in named.split(",")]
    if ports is not None:
        listed = ports.split(",")
        if not all(port.isdigit() for port in listed) or len(listed) not in (1, len(hosts) or 1):
            raise UrlFault("option port: expected as many ports as hosts")
        hosts = hosts or [("", 0)]
        hosts = [(host, int(port)) for (host, _), port in zip(hosts, listed * (len(hosts) // len(listed)), strict=True)]
    return hosts


def _resolved(hosts: list[tuple[str, int]], words: Mapping[str, str]) -> dict[str, str]:
    """Hosts with their addresses, looked up by Python: libpq's own look-up would stop the event loop.

    `host` stays beside `hostaddr`: certificates are checked against it.
    """
    if "hostaddr" in words or not hosts:
        return {name: ",".join(values) for name, values in _columns(hosts).items()}
    found, failed = list[tuple[str, str, int]](), None
    for host, port in hosts:
        try:
            found += [(host, address, port) for address in _addresses(host)]
        except OSError as error:
            failed = error
    if not found:
        raise psycopg2.OperationalError("the database's host name could not be resolved") from failed
    columns = _columns([(host, port) for host, _, port in found])
    if any(address for _, address, _ in found):
        columns["hostaddr"] = [address for _, address, _ in found]
    return {name: ",".join(values) for name, values in columns.items()}


def _columns(hosts: list[tuple[str, int]]) -> dict[str, list[str]]:
    if not hosts:
        return {}
    columns = {"port": [str(port or 5432) for _, port in hosts]}
    if any(host for host, _ in hosts):
        columns["host"] = [host for host, _ in hosts]
    return columns


def _addresses(host: str) -> Iterator[str]:
    """Addresses of a host name; an empty one for a socket's folder, which has none."""
    if not host or host.startswith(("/", "@")):
        yield ""
        return
    try:
        yield str(ipaddress.ip_address(host))
    except ValueError:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        yield from dict.fromkeys(str(entry[4][0]) for entry in found)


def _wait(connection: Any) -> None:
    """psycopg2's wait callback: let other greenlets run until the connection's socket is ready."""
    while True:
        state = connection.poll()
        if state == extensions.POLL_OK:
            return
        wait = {extensions.POLL_READ: wait_read, extensions.POLL_WRITE: wait_write}.get(state)
        if wait is None:
            raise psycopg2.OperationalError("unexpected state of the connection")
        try:
            wait(connection.fileno(), timeout=LONGEST_SILENCE_S, timeout_exc=_Silence())
        except _Silence:
            if _UNHURRIED not in (connection.info.options or ""):
                raise psycopg2.OperationalError("the database did not answer in time") from None

"""TLS towards an origin: one context, sessions resumed, the wrapped socket in the exchange before it waits."""

import logging
import os
import ssl
from pathlib import Path
from time import monotonic, time
from typing import Any

import certifi
from gevent import ssl as gssl
from requests.exceptions import SSLError

from llm_proxy.transport.exchange import Exchange

EXPIRY_WARNING_DAYS = 14
_DAY_S = 86400.0
_log = logging.getLogger(__name__)


def make_context() -> Any:
    """Return a verifying client context: REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, else certifi's; a folder is a capath.

    Takes about 20 ms: one an origin, never one a connection.

    Raises:
        SSLError: The bundle is missing or holds no certificates; says which variable named it.
    """
    name = next((name for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if os.environ.get(name)), "")
    bundle = os.environ[name] if name else certifi.where()
    # gevent's class by name: its create_default_context makes the standard, blocking one where nothing is patched.
    context = gssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and host name; TLS 1.2 or later
    try:
        context.load_verify_locations(**({"capath": bundle} if Path(bundle).is_dir() else {"cafile": bundle}))
    except OSError:
        raise SSLError(f"{name or 'certifi'}: expected a readable file or folder of CA certificates") from None
    # Some builds of Python, Debian 12's for one, set it: a FIN without close_notify would pass as an end.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    context.set_alpn_protocols(["http/1.1"])
    return context


def check_certificates() -> list[str]:
    """Return what is wrong with the CA bundle that the environment names; one line, or none."""
    try:
        make_context()
    except SSLError as exc:
        return [str(exc)]
    return []


class Tls:
    """What the connections to one origin share."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._context = make_context()
        self._session: Any = None
        self._warned_at = -_DAY_S

    def wrap(self, x: Exchange) -> None:
        """Make the exchange's connection a TLS one.

        Raises:
            OSError: No handshake, or a certificate that does not verify (`ssl.SSLError`).
        """
        raw = x.sock
        x.sock = self._context.wrap_socket(
            raw,
            server_hostname=self._host,
            do_handshake_on_connect=False,  # a cut has to find the wrapped socket: the raw one is empty by then
            suppress_ragged_eofs=False,  # a FIN without close_notify can be forged
            session=self._session,
        )
        x.check()
        x.sock.do_handshake()
        self._look_at_certificate(x.sock)

    def remember(self, sock: Any) -> None:
        """Keep the session of a connection whose response is complete: TLS 1.3 sends tickets after the handshake."""
        if not sock.session_reused:
            self._session = sock.session

    def _look_at_certificate(self, sock: Any) -> None:
        """Warn once a day when the provider's certificate is about to expire."""
        if monotonic() - self._warned_at < _DAY_S:
            return
        certificate = sock.getpeercert() or {}
        if not_after := certificate.get("notAfter"):
            days = (ssl.cert_time_to_seconds(not_after) - time()) / _DAY_S
            if days < EXPIRY_WARNING_DAYS:
                self._warned_at = monotonic()
                _log.warning("certificate of %s (%s) expires at %s", self._host, _subject(certificate), not_after)


def _subject(certificate: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for part in certificate.get("subject", ()) for name, value in part)

"""What requests calls a failure → what the proxy calls it, by one table.

Inside the package the library's own exceptions are raised. They are all `OSError`s, which a WSGI server takes for
trouble with its client's socket, so none of them leaves `Upstream` or `UpstreamResponse.chunks`.
"""

import errno
import socket
import ssl

from requests import exceptions as theirs

from llm_proxy.errors import UpstreamBroken, UpstreamConnectError, UpstreamCut, UpstreamError, UpstreamTimeout
from llm_proxy.errors import UpstreamRequestInvalid as RequestInvalid


class Broken(theirs.ConnectionError):
    """The connection ended early, or what came over it is no acceptable HTTP."""


class Aborted(theirs.ConnectionError):
    """The exchange was cut from this side; `reason` says by what."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class WasCut(Exception):
    """Stops a greenlet whose exchange was cut while it did not wait on the socket; translated like the rest."""


# First that fits. Read from the special to the general: ConnectTimeout is a ConnectionError too.
TABLE: tuple[tuple[type[theirs.RequestException], type[UpstreamError]], ...] = (
    (theirs.Timeout, UpstreamTimeout),
    (theirs.SSLError, UpstreamConnectError),
    (theirs.ProxyError, UpstreamConnectError),
    (Broken, UpstreamBroken),
    (theirs.ConnectionError, UpstreamConnectError),
    (theirs.InvalidHeader, RequestInvalid),
    (theirs.InvalidURL, RequestInvalid),
    (theirs.RequestException, UpstreamBroken),
)


def translate(exc: theirs.RequestException, phase: str, *, is_sent: bool) -> UpstreamError:
    """Return the error to raise (`from exc`) in place of `exc`; never shows the library's words to a caller."""
    if isinstance(exc, Aborted):
        return UpstreamCut(exc.reason).at(phase, is_sent=is_sent)
    for library_class, own_class in TABLE:
        if isinstance(exc, library_class):
            return own_class().at(phase, is_sent=is_sent)
    return UpstreamBroken().at(phase, is_sent=is_sent)


_UNREACHABLE = frozenset((errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN))


def cause_of(exc: BaseException | None) -> str:
    """Return in a few words why a connection was not made, from an exception and those behind it."""
    while exc is not None:
        if words := _words(exc):
            return words
        exc = exc.__cause__ or exc.__context__
    return "the connection failed"


def _words(exc: BaseException) -> str | None:
    """Return what one exception says; None when another behind it may say more."""
    if isinstance(exc, socket.gaierror):
        return "unknown host" if exc.errno != socket.EAI_AGAIN else "unknown host (the name server does not answer)"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate not trusted ({exc.verify_message})"
    if isinstance(exc, ssl.SSLError):
        return f"no TLS handshake ({getattr(exc, 'reason', None) or 'connection ended'})"
    if isinstance(exc, theirs.ProxyError) and exc.args:
        return str(exc)
    if isinstance(exc, theirs.Timeout | TimeoutError):
        return "no answer in time"
    if isinstance(exc, ConnectionRefusedError):
        return "connection refused"
    if isinstance(exc, ConnectionResetError):
        return "connection reset"
    if isinstance(exc, OSError) and exc.errno in _UNREACHABLE:
        return "host unreachable"
    return None

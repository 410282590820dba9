"""The table of failures: every class of the library's has its place, and none gets out."""

import errno
import inspect
import socket
import ssl

import pytest
from requests import exceptions as theirs

from llm_proxy import errors
from llm_proxy.transport.errors import TABLE, Aborted, Broken, cause_of, translate

EXPECTED: dict[type, type[errors.UpstreamError]] = {
    theirs.ConnectTimeout: errors.UpstreamTimeout,
    theirs.ReadTimeout: errors.UpstreamTimeout,
    theirs.Timeout: errors.UpstreamTimeout,
    theirs.SSLError: errors.UpstreamConnectError,
    theirs.ProxyError: errors.UpstreamConnectError,
    theirs.ConnectionError: errors.UpstreamConnectError,
    theirs.InvalidHeader: errors.UpstreamRequestInvalid,
    theirs.InvalidURL: errors.UpstreamRequestInvalid,
    theirs.InvalidProxyURL: errors.UpstreamRequestInvalid,
    Broken: errors.UpstreamBroken,
    Aborted: errors.UpstreamCut,
}
LIBRARY = [
    value
    for _, value in inspect.getmembers(theirs, inspect.isclass)
    if issubclass(value, theirs.RequestException) and value is not theirs.JSONDecodeError
]


def make(kind: type[theirs.RequestException]) -> theirs.RequestException:
    return Aborted("drain") if kind is Aborted else kind("their words")


@pytest.mark.parametrize("kind", [*LIBRARY, Broken, Aborted], ids=lambda kind: kind.__name__)
def test_every_class_of_the_library_becomes_one_of_ours(kind: type[theirs.RequestException]) -> None:
    """Each library error has its own class here, unknown ones are a broken exchange; none is an OSError any more."""
    error = translate(make(kind), "send", is_sent=True)
    assert type(error) is EXPECTED.get(kind, errors.UpstreamBroken)
    assert not isinstance(error, OSError)
    assert (error.phase, error.is_sent) == ("send", True)


def test_callers_never_see_the_librarys_words() -> None:
    """The message is the class's own sentence."""
    for kind, own in EXPECTED.items():
        error = translate(make(kind), "connect", is_sent=False)
        assert str(error) == own.message


def test_table_has_no_row_that_another_hides() -> None:
    """A row below a base class of its own would never be reached."""
    for number, (kind, _) in enumerate(TABLE):
        assert not any(issubclass(kind, earlier) for earlier, _ in TABLE[:number])


def test_reason_of_a_cut_is_kept() -> None:
    """Accounting tells client gone, drain and revoked apart by it."""
    error = translate(Aborted("revoked"), "body", is_sent=True)
    assert isinstance(error, errors.UpstreamCut)
    assert error.reason == "revoked"


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "unknown host"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "connection refused"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "connection reset"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "host unreachable"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong"), "no TLS handshake (connection ended)"),
        (theirs.ConnectTimeout("connect limit"), "no answer in time"),
        (theirs.ProxyError("the proxy answered 407 to CONNECT"), "the proxy answered 407 to CONNECT"),
        (ValueError("their words"), "the connection failed"),
    ],
)
def test_a_failed_connect_is_explained(cause: Exception, words: str) -> None:
    """By the first exception of the chain that says something."""
    wrapper = theirs.ConnectionError("their words")
    wrapper.__cause__ = cause
    assert cause_of(wrapper) == words

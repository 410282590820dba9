"""Proxies from the environment, as they are looked at when the server starts."""

from base64 import b64encode

import pytest

from llm_proxy.transport import check_proxies
from llm_proxy.transport.proxies import proxy_for, split_origin

ORIGIN = "https://api.test:443"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_no_proxy_is_no_fault() -> None:
    """Nothing set: direct, and nothing to say."""
    assert proxy_for(ORIGIN) is None
    assert check_proxies([ORIGIN]) == []


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://proxy.test:3128", "proxy.test", 3128),
        ("http://proxy.test", "proxy.test", 80),
        ("proxy.test:8080", "proxy.test", 8080),
        ("http://[::1]:8080", "::1", 8080),
    ],
)
def test_http_proxies(monkeypatch: pytest.MonkeyPatch, url: str, host: str, port: int) -> None:
    """With and without scheme and port."""
    monkeypatch.setenv("HTTPS_PROXY", url)
    proxy = proxy_for(ORIGIN)
    assert proxy is not None
    assert (proxy.host, proxy.port, proxy.authorization) == (host, port, b"")


def test_credentials_are_unquoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both halves, any bytes."""
    monkeypatch.setenv("ALL_PROXY", "http://us%3Aer:p%40%C3%A4@proxy.test:1")
    proxy = proxy_for(ORIGIN)
    assert proxy is not None
    assert proxy.authorization == b"Proxy-Authorization: Basic " + b64encode("us:er:p@ä".encode()) + b"\r\n"


@pytest.mark.parametrize(
    "url", ["https://u:secret@proxy.test", "socks5h://u:secret@proxy.test", "http://u:secret@", "http://u:secret@h:99x"]
)
def test_others_are_one_line_without_the_secret(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """A start refuses them with a line that names variable and origin, and shows no credentials."""
    monkeypatch.setenv("HTTPS_PROXY", url)
    faults = check_proxies([ORIGIN, "http://plain.test:80"])
    assert len(faults) == 1
    assert "HTTPS_PROXY" in faults[0]
    assert ORIGIN in faults[0]
    assert "secret" not in faults[0]
    assert "\n" not in faults[0]


def test_exempt_origins_are_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_PROXY counts for the check, too: names, domains and networks."""
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.test")
    monkeypatch.setenv("NO_PROXY", "api.test,10.0.0.0/8")
    assert check_proxies([ORIGIN, "https://10.1.2.3:443"]) == []


@pytest.mark.parametrize(
    ("origin", "parts"),
    [
        ("https://api.test:8443", ("https", "api.test", 8443)),
        ("http://[::1]:80", ("http", "::1", 80)),
        ("https://api.test", ("https", "api.test", 443)),
    ],
)
def test_origins(origin: str, parts: tuple[str, str, int]) -> None:
    """Scheme, host without brackets, port."""
    assert split_origin(origin) == parts


@pytest.mark.parametrize("origin", ["ftp://h:1", "api.test:443", "https://", "https://h:99999"])
def test_what_is_no_origin(origin: str) -> None:
    """Anything else is a ValueError."""
    with pytest.raises(ValueError, match=r".+"):
        split_origin(origin)

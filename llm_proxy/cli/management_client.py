"""The management API for commands: over HTTP, or inside this process on the configured database."""

import time
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests
import urllib3
from requests.auth import AuthBase

from llm_proxy import __version__
from llm_proxy.access.secret import is_well_formed
from llm_proxy.cli.environment import as_flag, is_run_by_flask, load_settings, settings
from llm_proxy.cli.errors import AuthenticationError, CommandError, NetworkError
from llm_proxy.cli.management_address import management_address, require_trusted, warn_of_cleartext
from llm_proxy.cli.management_results import Query, result
from llm_proxy.cli.options import read_secret

CONNECT_S, TOTAL_S = 5.0, 30.0
_READ_BYTES = 65536
_ELSEWHERE = "; is the server running? Another address: MANAGEMENT_API_BASE_URL or --manage-api-base-url"


class ManagementClient(Protocol):
    """One call of the management API."""

    def call(self, method: str, path: str, *, body: Any = None, query: Query | None = None) -> Any:
        """Return the response's JSON, None when it is empty. Raises CommandError with the server's own words."""


def connect(
    *, base_url: str | None, management_token: str | None, is_direct: bool, is_insecure: bool
) -> ManagementClient:
    """HTTP behind `llm-proxy`, direct behind `flask`; --direct and --manage-api-base-url switch either way."""
    if is_direct and base_url is not None:
        raise CommandError("--direct and --manage-api-base-url exclude each other")
    if is_direct or (is_run_by_flask() and base_url is None):
        from llm_proxy.cli.direct import DirectClient

        return DirectClient(settings())
    found = load_settings(MANAGEMENT_API_BASE_URL=base_url)
    matter = ["MANAGEMENT_API_BASE_URL=", "LLM_PROXY_ENV_FILE="]  # others are the server's affair
    if management_token is None:
        matter += ["LLM_PROXY_MANAGEMENT_KEY_FILE=", "MANAGEMENT_TOKEN_FILE="]
    faults = [fault for fault in found.faults if fault.startswith(tuple(matter))]
    if faults:
        raise CommandError("\n".join(as_flag(fault, found) for fault in faults))
    key = (found.settings.commands.management_key or "").strip()
    token, variable = read_secret("--management-token", management_token) or "", None
    if not token:
        token = key or found.settings.operation.management_token
        variable = "LLM_PROXY_MANAGEMENT_KEY" if key else "MANAGEMENT_TOKEN"
    require_trusted(found, variable if token else None)
    token = token or read_secret("--management-token", None, prompt="Management key or token") or ""
    if not token:
        raise AuthenticationError(
            "no management token: set LLM_PROXY_MANAGEMENT_KEY or MANAGEMENT_TOKEN, or give --management-token"
        )
    if key and token == key and not is_well_formed(key):
        raise AuthenticationError("LLM_PROXY_MANAGEMENT_KEY is no management key: its checksum does not match")
    base_url, _ = management_address(found)
    warn_of_cleartext(base_url)
    return HttpClient(base_url, token, is_insecure=is_insecure)


class _Bearer(AuthBase):
    """Sets the field itself: requests would otherwise take a netrc file's password for this host."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class HttpClient:
    """A server's management API. Connects within 5 s, ends within 30 s, follows no redirect."""

    def __init__(self, base_url: str, token: str, *, is_insecure: bool = False) -> None:
        self._base_url = base_url.rstrip("/")
        self._session = requests.Session()
        self._session.auth = _Bearer(token)
        self._verify = False if is_insecure else None  # of each request: the session's yields to REQUESTS_CA_BUNDLE
        self._session.headers["User-Agent"] = f"llm-proxy/{__version__}"
        if is_insecure:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def call(self, method: str, path: str, *, body: Any = None, query: Query | None = None) -> Any:
        """See ManagementClient."""
        params = {name: str(value) for name, value in (query or {}).items() if value is not None}
        deadline = time.monotonic() + TOTAL_S
        try:
            response = self._session.request(
                method,
                self._base_url + path,
                params=params,
                json=body,
                timeout=(CONNECT_S, TOTAL_S),
                allow_redirects=False,
                stream=True,
                verify=self._verify,
            )
            with response:
                content = _read(response, deadline)
        except requests.RequestException as exc:
            words = words_of(exc)
            hint = _ELSEWHERE if words in ("connection refused", "unknown host") else ""
            raise NetworkError(f"{self._place()}: {words}{hint}") from exc
        except UnicodeError as exc:
            raise CommandError("the management token has characters that no header field can carry") from exc
        return result(response.status_code, content)

    def _place(self) -> str:
        parts = urlsplit(self._base_url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _read(response: requests.Response, deadline: float) -> bytes:
    content = bytearray()
    for piece in response.iter_content(_READ_BYTES):
        content += piece
        if time.monotonic() > deadline:
            raise requests.Timeout
    return bytes(content)


def words_of(exc: requests.RequestException) -> str:
    """Return a library's error in the project's words; the library's may hold the URL's password."""
    text = str(exc)
    if isinstance(exc, requests.exceptions.ProxyError):
        return "the HTTP proxy on the way failed"
    if isinstance(exc, requests.exceptions.SSLError):
        return "TLS failed: " + ("certificate not accepted" if "CERTIFICATE_VERIFY" in text else "no agreement")
    if isinstance(exc, requests.Timeout):
        return "no answer in time"
    if "NameResolution" in text or "getaddrinfo" in text or "Name or service" in text:
        return "unknown host"
    if "Connection refused" in text:
        return "connection refused"
    return "the connection failed"

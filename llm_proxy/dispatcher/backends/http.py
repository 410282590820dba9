"""One HTTP call to a service, and what its response means for the events in it.

The dispatcher is a plain client of other people's APIs, in its own process: requests does that well, with proxies
and CA bundles from the environment. The proxy's transport package, made for fidelity, is not meant for it.
"""

import email.utils
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import gevent
import requests
from requests.auth import AuthBase

from llm_proxy import __version__
from llm_proxy.dispatcher.backends.base import BackendConfig, Result, Verdict

CONNECT_S = 5.0
MOST_RETRY_AFTER_S = 300.0
_MAX_RESPONSE_BYTES = 4 * 1024 * 1024
_TRANSIENT = frozenset((408, 425, 429))
_CONFIGURATION = frozenset((401, 402, 403, 404))


@dataclass(frozen=True, slots=True)
class Reply:
    """A service's response. `status` 0: there was none, and `error` says why."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def is_success(self) -> bool:
        """2xx."""
        return 200 <= self.status < 300

    def result(self, *, is_whole: bool) -> Result:
        """Return the verdict of a status that is no success."""
        verdict = verdict_of(self.status)
        wait_s = retry_after_s(self.headers.get("Retry-After")) if verdict is Verdict.TRANSIENT else None
        return Result(verdict, self.error or f"HTTP {self.status}", wait_s, is_whole=is_whole)


def verdict_of(status: int) -> Verdict:
    """Return the class of a status that is no success; 0 is no response."""
    if status in _CONFIGURATION or 300 <= status < 400:
        return Verdict.CONFIGURATION
    if status < 400 or status in _TRANSIENT or status >= 500:
        return Verdict.TRANSIENT
    return Verdict.PERMANENT


def retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After, a number or a date; at most 5 minutes; None when there is none that makes sense."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), MOST_RETRY_AFTER_S) if math.isfinite(seconds) else None


class _Bearer(AuthBase):
    """The key. Given as `auth`, because requests lets a .netrc entry replace a field that it finds without."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class HttpClient:
    """Keep-alive posts to one service. TLS is verified, redirects are not followed: the key would travel.

    Args:
        timeout_s: Total limit of a call; connecting has 5 s of it.
    """

    def __init__(self, api_key: str | None, timeout_s: float, *, concurrency: int = 1) -> None:
        self.session = requests.Session()
        adapter = requests.adapters.HTTPAdapter(pool_connections=2, pool_maxsize=concurrency, max_retries=0)
        self.session.mount("https://", adapter)
        self.session.mount("http://", adapter)
        self.session.auth = _Bearer(api_key)
        self.session.headers["User-Agent"] = f"llm-proxy-dispatcher/{__version__}"
        self._timeout_s = timeout_s

    def post(self, url: str, body: bytes, content_type: str = "application/json") -> Reply:
        """Post once. Never raises: no response is a Reply, too."""
        try:
            with gevent.Timeout(self._timeout_s, TimeoutError("no answer in time")):
                return self._post(url, body, content_type)
        except TimeoutError:
            return Reply(0, error="timeout")
        except requests.exceptions.Timeout:
            return Reply(0, error="timeout")
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
            return Reply(404, error="the endpoint is no usable URL")
        except (requests.exceptions.RequestException, OSError) as exc:
            return Reply(0, error=type(exc).__name__)

    def _post(self, url: str, body: bytes, content_type: str) -> Reply:
        with self.session.post(
            url,
            data=body,
            headers={"Content-Type": content_type},
            timeout=(min(CONNECT_S, self._timeout_s), self._timeout_s),
            allow_redirects=False,
            stream=True,
        ) as response:
            content = response.raw.read(_MAX_RESPONSE_BYTES, decode_content=True)
            response.raw.drain_conn()
            return Reply(response.status_code, content, response.headers)

    def close(self) -> None:
        """Close all connections."""
        self.session.close()


class HttpBackend:
    """What the back ends have in common that post to an HTTP API with a key."""

    needs_key: ClassVar[bool] = True
    is_http: ClassVar[bool] = True

    def __init__(self, config: BackendConfig, *, connections: int = 1) -> None:
        self._config = config
        self._client = HttpClient(config.api_key, config.timeout_s, concurrency=connections)

    def reopen(self) -> None:
        """Nothing to reopen."""

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

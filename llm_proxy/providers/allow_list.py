"""What may be asked of the provider: method, path, required fields and origin, in the pipeline's order.

All of it is compiled once; a check of a usual request costs a microsecond or two.
"""

import re
import unicodedata
from collections.abc import Sequence
from urllib.parse import unquote, unquote_to_bytes

from llm_proxy.errors import (
    EndpointNotFound,
    MethodNotAllowed,
    OriginNotAllowed,
    OriginRequired,
    RequiredHeaderMissing,
    UpgradeNotSupported,
)
from llm_proxy.providers.schema import Provider

RESERVED_PATHS = ("/health", "/ready", "/live", "/manage", "/admin")  # metrics' and the pages' own path beside
PROXY_PATH = "/v1"

# Segments that begin neither with a dot nor anything else that could be read in two ways: nothing to decode.
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_~:@!$&'()*+,=-][A-Za-z0-9._~:@!$&'()*+,;=-]*)+/?|/")
_AMBIGUOUS = re.compile(r"//|\\|%5c|%00|%(?![0-9a-f]{2})|[\x00-\x20\x7f]", re.IGNORECASE)
_SLASH = re.compile("%2f", re.IGNORECASE)
_STILL_ESCAPED = re.compile("%(?:25)*(?:2e|2f|5c|00)", re.IGNORECASE)  # in a path that was unescaped once
_PATH_PARAMETERS = re.compile(r";[^/]*")  # Tomcat, Jetty and Spring read `..;x` as `..`
_OVERRIDES = frozenset(("X-HTTP-METHOD-OVERRIDE", "X-METHOD-OVERRIDE", "X-HTTP-METHOD"))
_UNSEEN = frozenset(("batches", "assistants", "threads", "fine_tuning", "evals"))
_DOT_SEGMENT = re.compile(r"/[\x00-\x20]*\.\.?[\x00-\x20]*(?:/|$)")  # Windows, for one, drops blanks behind dots


class AllowList:
    """The rules of one provider about everything but parameters."""

    __slots__ = (
        "_below",
        "_exact",
        "_methods",
        "_origins",
        "_required",
        "_sockets",
        "_wants_origin",
        "has_field_rules",
    )

    def __init__(self, provider: Provider) -> None:
        self._methods = frozenset(provider.allowed_methods)
        self._exact = frozenset(endpoint for endpoint in provider.allowed_endpoints if not endpoint.endswith("/"))
        self._below = tuple(e if e.endswith("/") else e + "/" for e in provider.allowed_endpoints)
        self._origins = frozenset(provider.allowed_origins)
        self._sockets = frozenset(path.rstrip("/") for path in provider.websocket_paths)
        names = [(name.upper(), name) for name in provider.required_headers]
        self._wants_origin = any(upper == "ORIGIN" for upper, _ in names)
        self._required = tuple((upper, name) for upper, name in names if upper != "ORIGIN")
        self.has_field_rules = bool(self._required or self._wants_origin or self._origins)

    def check_method(self, method: str) -> None:
        """Case does not count. Raises MethodNotAllowed, which carries Allow."""
        if method not in self._methods and method.upper() not in self._methods:
            raise MethodNotAllowed(allow=tuple(sorted(self._methods)))

    def check_overrides(self, fields: Sequence[tuple[str, str]]) -> None:
        """Check methods that fields name in place of the request's; names in upper case. Raises MethodNotAllowed."""
        if not _OVERRIDES.isdisjoint([name for name, _ in fields]):
            for name, value in fields:
                if name in _OVERRIDES:
                    self.check_method(value.strip().upper())

    @staticmethod
    def is_unseen(method: str, raw_path: str) -> bool:
        """Return whether a request starts what no budget sees: jobs that run later, with their own models."""
        return method.upper() not in ("GET", "HEAD") and not _UNSEEN.isdisjoint(unquote(raw_path).lower().split("/"))

    def check_endpoint(self, raw_path: str) -> None:
        """Check the path as the client wrote it, without the query; latin-1 text of its bytes.

        Raises EndpointNotFound.
        """
        path = raw_path if _PLAIN_PATH.fullmatch(raw_path) else _decoded(raw_path)
        if path not in self._exact and not path.startswith(self._below):
            raise EndpointNotFound
        if path is not raw_path and (found := _SLASH.search(raw_path)) is not None:
            self._check_below(raw_path[: found.start()])

    def check_handshake(self, method: str, raw_path: str) -> None:
        """Check a WebSocket handshake: a GET of a path under `websockets`, spelled as there.

        Raises UpgradeNotSupported: the client is to go on over HTTP.
        """
        if method != "GET" or raw_path.rstrip("/") not in self._sockets:
            raise UpgradeNotSupported

    def endpoint_of(self, path: str) -> str:
        """Return the entry of the list that a path of the provider is at or below, the longest; empty for none."""
        found = [entry for entry in self._below if path.startswith(entry) or path + "/" == entry]
        return max(found, key=len, default="")

    def _check_below(self, before_slash: str) -> None:
        """Raise EndpointNotFound unless an escaped slash is below a prefix in both of its readings."""
        if not _decoded(before_slash).startswith(self._below):
            raise EndpointNotFound

    def check_fields(self, fields: Sequence[tuple[str, str]]) -> None:
        """Check required fields, then the origin; names in upper case.

        Raises RequiredHeaderMissing, OriginRequired, OriginNotAllowed.
        """
        if not self.has_field_rules:
            return
        present = {name for name, value in fields if value.strip()}
        origins = [value for name, value in fields if name == "ORIGIN" and value.strip()]
        for upper, name in self._required:
            if upper not in present:
                raise RequiredHeaderMissing(f"Required header missing: {name}", param=name)
        if self._wants_origin and not origins:
            raise OriginRequired
        if self._origins and not self._origins.issuperset(origins):
            raise OriginNotAllowed


def _decoded(raw_path: str) -> str:
    """Return the path that the provider will see. Raises EndpointNotFound where it may see another one."""
    if not raw_path.startswith("/") or _AMBIGUOUS.search(raw_path):
        raise EndpointNotFound
    try:
        path = unquote_to_bytes(raw_path.encode("latin-1")).decode("utf-8")
    except UnicodeError:
        raise EndpointNotFound from None
    plain = path if path.isascii() else unicodedata.normalize("NFKC", path)  # full-width dots are dots to some
    for reading in (path, plain, _PATH_PARAMETERS.sub("", plain)):
        if "//" in reading or "\\" in reading or _STILL_ESCAPED.search(reading) or _DOT_SEGMENT.search(reading):
            raise EndpointNotFound
    return path


def mounts(provider: Provider) -> tuple[str, ...]:
    """Return the path prefixes that belong to the proxy: /v1, and the first segment of endpoints outside it.

    "/" when an endpoint allows everything. A prefix is meant as whole segments.
    """
    paths = (*provider.allowed_endpoints, *provider.websocket_paths)
    firsts = dict.fromkeys("/" + path.split("/")[1] for path in paths)
    return (PROXY_PATH, *(first for first in firsts if first != PROXY_PATH))


def reserved_endpoints(provider: Provider, reserved: Sequence[str]) -> tuple[str, ...]:
    """Endpoints of the file that never reach the provider, because a path of the proxy stands before them."""
    return tuple(
        endpoint
        for endpoint in provider.allowed_endpoints
        if any(endpoint == path or endpoint.startswith(path + "/") for path in reserved)
    )

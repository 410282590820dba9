"""The provider file's content → frozen `Provider`s; every fault and every doubt in one go.

A fault or warning is one line that starts with the key's path (`apis.openai.timeouts.idle: …`); the reader of the file
puts its name in front.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import SplitResult, urlsplit

from llm_proxy.providers.parameters import compile_glob
from llm_proxy.settings import UpstreamSettings
from llm_proxy.settings.variable import duration_s

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_ENDPOINT = re.compile(r"/(?:[A-Za-z0-9._~:@!$&'()*+,;=-]+/?)*")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class ProviderTimeouts:
    """Time limits of an exchange in seconds; `math.inf` is none.

    `total_s` does not bound event streams. `idle_connection_s` is how long an unused connection is kept.
    """

    connect_s: float
    first_byte_s: float
    idle_s: float
    total_s: float
    idle_connection_s: float
    flush_interval_s: float  # accepted without effect: nothing is held back


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One provider: where it is, what may be asked of it, and how it wants to be told its key.

    `origin` is `scheme://host:port`; `host` is the value of the Host field; `base_path` is put before each request
    target and has no slash at its end. Empty lists mean: no rule.

    Attributes:
        mount: Prefix of the paths that are the provider's, which is removed; empty: the root.
        hosts: Values of Host, in lower case and without port, whose requests are all the provider's.
        client_auth: Fields of a request that may carry a token, in upper case; the first that holds one counts.
        model_from: Patterns of paths that name the model: `/openai/deployments/{model}/*`.
        error_shape: The form of the proxy's own errors: `openai`, `anthropic` or `google`.
    """

    name: str
    base_url: str
    origin: str
    host: str
    base_path: str
    allowed_methods: tuple[str, ...]
    allowed_endpoints: tuple[str, ...]
    timeouts: ProviderTimeouts
    max_idle_conns: int = 100
    max_idle_conns_per_host: int = 20
    param_whitelist: Mapping[str, tuple[str, ...]]
    allowed_origins: tuple[str, ...] = ()
    required_headers: tuple[str, ...] = ()
    auth_header: str = "Authorization"
    auth_scheme: str = "Bearer"
    websocket_paths: tuple[str, ...] = ()
    websocket_dialect: str = "openai"
    mount: str = ""
    hosts: tuple[str, ...] = ()
    client_auth: tuple[str, ...] = ("AUTHORIZATION",)
    model_from: tuple[str, ...] = ()
    error_shape: str = "openai"

    @property
    def is_beside(self) -> bool:
        """Whether it has a mount or hosts, so that no client of another provider can mean it."""
        return bool(self.mount or self.hosts)

    @property
    def credential_prefix(self) -> str:
        """What stands before the key in `auth_header`: the scheme and a blank, or nothing."""
        return f"{self.auth_scheme} " if self.auth_scheme else ""


@dataclass(frozen=True, slots=True)
class ProviderFile:
    """A whole file without faults."""

    default_api: str | None
    providers: Mapping[str, Provider]


class Findings:
    """Faults and warnings met on the way, each with the path of its key."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.warnings: list[str] = []

    def fault(self, path: str, reason: str) -> None:
        """Add what keeps the file from being used."""
        self.faults.append(f"{path}: {reason}" if path else reason)

    def warn(self, path: str, reason: str) -> None:
        """Add what is allowed and not advisable."""
        self.warnings.append(f"{path}: {reason}")


def parse(document: Any, settings: UpstreamSettings, findings: Findings) -> ProviderFile:
    """Read the file's content, as YAML gave it, into providers; faults go to `findings` and nothing is raised.

    Where there are faults, the result is incomplete and must not be used.
    """
    if not isinstance(document, dict):
        findings.fault("", "expected a mapping with the key apis")
        return ProviderFile(None, {})
    _warn_unknown(document, ("default_api", "apis"), "", findings)
    apis = document.get("apis")
    providers: dict[str, Provider] = {}
    if not isinstance(apis, dict) or not apis:
        findings.fault("apis", "expected at least one provider")
        apis = {}
    for name, content in apis.items():
        if not isinstance(name, str):
            findings.fault(f"apis.{name}", "expected a name that is text; put it in quotes")
        elif not isinstance(content, dict):
            findings.fault(f"apis.{name}", "expected a mapping")
        elif (provider := _Reader(content, f"apis.{name}", findings).provider(name, settings)) is not None:
            providers[name] = provider
    default_api = document.get("default_api")
    if default_api is not None and apis and not (isinstance(default_api, str) and default_api in apis):
        findings.fault("default_api", f"expected one of {', '.join(map(str, apis))}, found {default_api!r}")
    return ProviderFile(default_api, providers)


def _warn_unknown(content: Mapping[Any, Any], known: tuple[str, ...], path: str, findings: Findings) -> None:
    for key in content:
        if key not in known:
            closest = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean {closest[0]}?" if closest else ""
            findings.warn(f"{path}.{key}" if path else str(key), f"unknown key, ignored{hint}")


class _Reader:
    """One mapping of the file, key by key. A wrong value is noted, and a harmless one of its type returned."""

    def __init__(self, content: Mapping[Any, Any], path: str, findings: Findings) -> None:
        self._content, self._path, self._findings = content, path, findings

    def provider(self, name: str, settings: UpstreamSettings) -> Provider | None:
        """Return the provider, or None when something in it is wrong."""
        before = len(self._findings.faults)
        _warn_unknown(self._content, _PROVIDER_KEYS, self._path, self._findings)
        base_url = self._base_url()
        methods = tuple(dict.fromkeys(m.upper() for m in self.texts("allowed_methods", _method, required=True)))
        sockets = self.child("websockets", ("paths", "dialect"))
        connection = self.child("connection", ("max_idle_conns", "max_idle_conns_per_host"))
        provider = Provider(
            name=name,
            base_url=base_url.geturl(),
            origin=_origin(base_url),
            host=base_url.netloc,
            base_path=base_url.path.rstrip("/"),
            allowed_methods=methods,
            allowed_endpoints=self.texts("allowed_endpoints", _endpoint, required=True),
            timeouts=self._timeouts(settings),
            max_idle_conns=connection.count("max_idle_conns", 100),
            max_idle_conns_per_host=connection.count("max_idle_conns_per_host", 20),
            param_whitelist=self._param_whitelist(),
            allowed_origins=self.texts("allowed_origins", _origin_text),
            required_headers=self.texts("required_headers", _field_name),
            auth_header=self.text("auth_header", "Authorization", _field_name),
            auth_scheme=self.text("auth_scheme", "Bearer", _scheme),
            websocket_paths=sockets.texts("paths", _endpoint),
            websocket_dialect=sockets.text("dialect", "openai", _dialect),
            mount=self.text("mount", "", _mount),
            hosts=tuple(host.lower() for host in self.texts("hosts", _host)),
            client_auth=self._client_auth(),
            model_from=self._model_from(),
            error_shape=self.text("error_shape", ERROR_SHAPES[0], _error_shape),
        )
        self._doubts(provider)
        return provider if len(self._findings.faults) == before else None

    def child(self, key: str, known: tuple[str, ...]) -> "_Reader":
        """Return the mapping under `key`; absent counts as empty."""
        content = self._content.get(key)
        if content is not None and not isinstance(content, dict):
            self.fault(key, "expected a mapping")
            content = None
        path = f"{self._path}.{key}"
        _warn_unknown(content or {}, known, path, self._findings)
        return _Reader(content or {}, path, self._findings)

    def fault(self, key: str, reason: str) -> None:
        """Note what is wrong with a key."""
        self._findings.fault(f"{self._path}.{key}", reason)

    def text(self, key: str, default: str, check: Callable[[str], str | None]) -> str:
        """Return a text; note the fault where it is none, or where `check` says what was expected."""
        value = self._content.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.fault(key, f"expected text, found {value!r}")
            return default
        if (wanted := check(value)) is not None:
            self.fault(key, f"expected {wanted}, found {value!r}")
        return value

    def texts(self, key: str, check: Callable[[str], str | None], *, required: bool = False) -> tuple[str, ...]:
        """Return a list of texts; one written alone is a fault, because a list was surely meant to grow."""
        value = self._content.get(key)
        if value is None or value == []:
            if required:
                self.fault(key, "required: expected a list that is not empty")
            return ()
        if not isinstance(value, list):
            self.fault(key, f"expected a list, found {value!r}")
            return ()
        good = []
        for index, item in enumerate(value):
            if not isinstance(item, str):
                self.fault(f"{key}[{index}]", f"expected text, found {item!r}; put it in quotes")
            elif (wanted := check(item)) is not None:
                self.fault(f"{key}[{index}]", f"expected {wanted}, found {item!r}")
            else:
                good.append(item)
        return tuple(good)

    def count(self, key: str, default: int) -> int:
        """Return a whole number from 0 to 1,000,000; else note the fault, and return the default."""
        value = self._content.get(key)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1_000_000:
            self.fault(key, f"expected a whole number from 0 to 1000000, found {value!r}")
            return default
        return value

    def seconds(self, key: str, default: float) -> float:
        """Return a duration, as in the environment; 0 is none."""
        value = self._content.get(key)
        if value is None:
            return default
        text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        try:
            return (duration_s(text) if isinstance(text, str) else -1.0) or math.inf
        except ValueError:
            self.fault(key, f"expected a duration such as 30s, 5m or 1h30m, found {value!r}")
            return default

    def _client_auth(self) -> tuple[str, ...]:
        """Return the fields that may carry a token: by default the one that the provider reads, and Authorization."""
        named = self.texts("client_auth", _field_name)
        own = self._content.get("auth_header")
        names = named or (*([own] if isinstance(own, str) else ()), "Authorization")
        return tuple(dict.fromkeys(name.upper() for name in names))

    def _model_from(self) -> tuple[str, ...]:
        """Patterns of paths; one written alone is a list of one."""
        value = self._content.get("model_from")
        if isinstance(value, str):
            return _Reader({"model_from": [value]}, self._path, self._findings)._model_from()
        return tuple(item.removeprefix("path:") for item in self.texts("model_from", _model_path))

    def _timeouts(self, settings: UpstreamSettings) -> ProviderTimeouts:
        """Read the time limits; `settings` gives those that the file does not name. REQUEST_TIMEOUT beats the file."""
        own = self.child("timeouts", _TIMEOUT_KEYS)
        first_byte_s = own.seconds("response_header", settings.first_byte_timeout_s or math.inf)
        total_s = own.seconds("request", math.inf)
        if (limit_s := settings.request_timeout_s) is not None:
            total_s = limit_s
            is_set = settings.first_byte_timeout_s != UpstreamSettings().first_byte_timeout_s
            is_chosen = is_set or own._content.get("response_header") is not None
            first_byte_s = min(first_byte_s, limit_s) if is_chosen else limit_s
        return ProviderTimeouts(
            connect_s=own.seconds("connect", settings.connect_timeout_s or math.inf),
            first_byte_s=first_byte_s,
            idle_s=own.seconds("idle", settings.idle_timeout_s or math.inf),
            total_s=total_s,
            idle_connection_s=own.seconds("idle_connection", 90.0),
            flush_interval_s=own.seconds("flush_interval", 0.1),
        )

    def _base_url(self) -> SplitResult:
        value = self._content.get("base_url")
        parts = read_base_url(value) if isinstance(value, str) else None
        if parts is None:
            found = "" if value is None or "@" in str(value) else f", found {value!r}"  # no password in a message
            self.fault("base_url", f"required: expected {BASE_URL_WANTED}{found}")
            return SplitResult("http", "invalid", "", "", "")
        return parts

    def _param_whitelist(self) -> dict[str, tuple[str, ...]]:
        content = self._content.get("param_whitelist")
        if content is None:
            return {}
        if not isinstance(content, dict):
            self.fault("param_whitelist", "expected a mapping from parameter to a list of patterns")
            return {}
        reader = _Reader(content, f"{self._path}.param_whitelist", self._findings)
        for name in content:
            if not isinstance(name, str):
                reader.fault(str(name), "expected a parameter's name that is text; put it in quotes")
        return {name: reader.texts(name, _pattern, required=True) for name in content if isinstance(name, str)}

    def _doubts(self, provider: Provider) -> None:
        """Report what is allowed and yet hardly meant."""
        for origin in provider.allowed_origins:
            if origin == "*":
                self._findings.warn(
                    f"{self._path}.allowed_origins", "'*' matches no origin; leave the key out to allow every origin"
                )
        is_doubled = provider.base_path.endswith("/v1") and all(p.startswith("/v1") for p in provider.allowed_endpoints)
        if is_doubled:
            self._findings.warn(f"{self._path}.base_url", DOUBLED_V1)


BASE_URL_WANTED = "a URL such as https://api.openai.com, without user, query or fragment"
DOUBLED_V1 = "ends in /v1, and so do the paths that are put behind it: requests go to /v1/v1/…"
WEBSOCKET_DIALECTS = ("openai",)
_TIMEOUT_KEYS = ("connect", "response_header", "idle", "request", "idle_connection", "flush_interval")
_PROVIDER_KEYS = (
    "base_url",
    "allowed_endpoints",
    "allowed_methods",
    "timeouts",
    "connection",
    "param_whitelist",
    "allowed_origins",
    "required_headers",
    "auth_header",
    "auth_scheme",
    "websockets",
    "mount",
    "hosts",
    "client_auth",
    "model_from",
    "error_shape",
)
ERROR_SHAPES = ("openai", "anthropic", "google")


def read_base_url(value: str) -> SplitResult | None:
    """Return the URL without a slash at its end, or None when it is none that requests can be sent to."""
    if re.search(r"[^\x21-\x7e]|[\\\"<>]", value):
        return None
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return None
    is_good = parts.scheme in _PORTS and parts.hostname and "@" not in parts.netloc and port != 0
    if not is_good or "?" in value or "#" in value:
        return None
    return parts._replace(path=parts.path.rstrip("/"))


def _origin(parts: SplitResult) -> str:
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port or _PORTS.get(parts.scheme, 0)}"


def with_base_url(provider: Provider, value: str) -> Provider:
    """Return the same provider at another address (OPENAI_API_URL). Raises ValueError worded as what is accepted."""
    parts = read_base_url(value)
    if parts is None:
        raise ValueError(BASE_URL_WANTED)
    return replace(
        provider, base_url=parts.geturl(), origin=_origin(parts), host=parts.netloc, base_path=parts.path.rstrip("/")
    )


# -- checks of single values: None when good, else what is accepted -------------------------------------------------


def _method(value: str) -> str | None:
    if not re.fullmatch(r"[A-Za-z]{1,20}", value) or value.upper() in ("CONNECT", "TRACE"):
        return "an HTTP method, but neither CONNECT nor TRACE"
    return None


def _endpoint(value: str) -> str | None:
    segments = value.split("/")
    if not _ENDPOINT.fullmatch(value) or "." in segments or ".." in segments:
        return "a path such as /v1/models, without query, escapes or dot segments"
    return None


def _field_name(value: str) -> str | None:
    return None if _TOKEN.fullmatch(value) and "_" not in value else "a field name such as X-Api-Key"


def _scheme(value: str) -> str | None:
    return None if not value or _TOKEN.fullmatch(value) else "an authentication scheme such as Bearer, or nothing"


def _dialect(value: str) -> str | None:
    return None if value in WEBSOCKET_DIALECTS else f"one of {', '.join(WEBSOCKET_DIALECTS)}"


def _mount(value: str) -> str | None:
    is_good = re.fullmatch(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+", value)
    return None if is_good else "a path such as /anthropic, without a slash at its end"


def _host(value: str) -> str | None:
    is_good = re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?", value)
    return None if is_good else "a host name such as claude.llm.example, without port"


def _model_path(value: str) -> str | None:
    path = value.removeprefix("path:")
    is_good = value.startswith("path:/") and path.count("{model}") == 1 and re.fullmatch(r"[/A-Za-z0-9._~:*{}-]+", path)
    return None if is_good else "path: and a pattern with {model}, such as path:/openai/deployments/{model}/*"


def _error_shape(value: str) -> str | None:
    return None if value in ERROR_SHAPES else f"one of {', '.join(ERROR_SHAPES)}"


def _origin_text(value: str) -> str | None:
    if value == "*" or value == "null":
        return None
    is_good = re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s?#]+", value)
    return None if is_good else "an origin as browsers send it, such as https://app.example.com, without path"


def _pattern(value: str) -> str | None:
    try:
        compile_glob(value)
    except ValueError as exc:
        return str(exc)
    return None

"""Settings of the server layer, limits on requests, and CORS."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from llm_proxy.settings.variable import (
    ListenAddress,
    address,
    boolean,
    choice,
    duration,
    file_path,
    folder,
    integer,
    named_urls,
    networks,
    setting,
    size,
    text,
    url,
    words,
)

_UP_TO_A_DAY = duration("1s", "24h", zero=True)


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Connections, workers, drain, TLS, size and concurrency limits."""

    listen_addr: ListenAddress = setting("LISTEN_ADDR", address, ":8080", "Address that the proxy listens on.")
    web_concurrency: int | None = setting(
        "WEB_CONCURRENCY", integer(1, 64), None, "Worker processes; unset: 1 with SQLite or the in-memory bus, else 2."
    )
    api_env: str = setting("API_ENV", text, "development", "A label for the start line.")
    public_base_url: str | None = setting(
        "PUBLIC_BASE_URL", url("http", "https"), None, "URL under which clients reach the proxy, for pages and notes."
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = setting(
        "TRUSTED_PROXIES", networks, "", "Networks whose X-Forwarded-* fields are believed."
    )
    keepalive_timeout_s: float = setting(
        "KEEPALIVE_TIMEOUT", duration("1s", "1h"), "75s", "How long an idle client connection is kept."
    )
    request_header_timeout_s: float = setting(
        "REQUEST_HEADER_TIMEOUT", duration("1s", "10m"), "10s", "From a request's first byte to the end of its head."
    )
    request_body_timeout_s: float = setting(
        "REQUEST_BODY_TIMEOUT", _UP_TO_A_DAY, "60s", "Longest silence in a request body; 0 = none."
    )
    client_write_timeout_s: float = setting(
        "CLIENT_WRITE_TIMEOUT", _UP_TO_A_DAY, "300s", "A client that takes no byte for so long is gone; 0 = none."
    )
    shutdown_grace_s: float = setting(
        "SHUTDOWN_GRACE", duration("0s", "10m"), "0s", "After SIGTERM: serve on, with /ready at 503, for this long."
    )
    drain_timeout_s: float = setting(
        "DRAIN_TIMEOUT", duration("0s", "24h"), "120s", "How long running exchanges may go on after SIGTERM."
    )
    max_request_size_bytes: int = setting("MAX_REQUEST_SIZE", size(), "0", "Largest request body; 0 = no limit.")
    max_inspected_body_bytes: int = setting(
        "MAX_INSPECTED_BODY", size("64KB", "1GB"), "32MB", "Largest body that is read before it is forwarded."
    )
    max_held_bodies_bytes: int = setting(
        "MAX_HELD_BODIES",
        size(),
        "1GB",
        "Request bodies that a worker holds at once while it looks at them, a sixteenth in memory; 0 = no limit.",
    )
    held_body_timeout_s: float = setting(
        "HELD_BODY_TIMEOUT", _UP_TO_A_DAY, "600s", "Longest time for all of a body that is held; 0 = none."
    )
    max_concurrent_requests: int = setting(
        "MAX_CONCURRENT_REQUESTS", integer(0, 1_000_000), "0", "Exchanges at once over all workers; 0 = no limit."
    )
    enable_streaming: bool = setting("ENABLE_STREAMING", boolean, "true", "Whether streamed responses are allowed.")
    fast_lane: bool = setting(
        "LLM_PROXY_FAST_LANE", boolean, "true", "Serve /v1 in front of Flask's own dispatch (false: through it)."
    )
    enable_tls: bool = setting("ENABLE_TLS", boolean, "false", "Serve HTTPS.")
    tls_cert_file: Path = setting("TLS_CERT_FILE", file_path, "./certs/server.crt", "Certificate chain, PEM.")
    tls_key_file: Path = setting("TLS_KEY_FILE", file_path, "./certs/server.key", "Private key, PEM.")
    tls_min_version: str = setting("TLS_MIN_VERSION", choice("1.2", "1.3"), "1.2", "Oldest TLS version accepted.")
    prometheus_multiproc_dir: Path | None = setting(
        "PROMETHEUS_MULTIPROC_DIR", folder, None, "Folder for the workers' metric files of this one server."
    )
    cors_allowed_origins: tuple[str, ...] = setting(
        "CORS_ALLOWED_ORIGINS", words, "*", "Origins that browsers may call /v1 from, where the provider lists none."
    )
    cors_allowed_methods: tuple[str, ...] = setting(
        "CORS_ALLOWED_METHODS", words, "GET,POST,PUT,PATCH,DELETE,OPTIONS", "Methods named in a preflight response."
    )
    cors_allowed_headers: tuple[str, ...] = setting(
        "CORS_ALLOWED_HEADERS",
        words,
        "Authorization,Content-Type,X-Requested-With",
        "Request fields named in a preflight response that was not asked for any.",
    )
    cors_max_age_s: float = setting("CORS_MAX_AGE", duration("0s", "30d"), "86400", "Seconds a preflight is kept.")
    worker_pool_size: str | None = setting("WORKER_POOL_SIZE", text, None, "Accepted without effect.")


@dataclass(frozen=True, kw_only=True)
class UpstreamSettings:
    """The provider file and the way to the provider."""

    api_config_path: Path | None = setting(
        "API_CONFIG_PATH", file_path, None, "Provider file; unset: ./config/api_providers.yaml, else the packaged one."
    )
    default_api_provider: str | None = setting(
        "DEFAULT_API_PROVIDER", text, None, "Provider that is served; unset: the file's default_api."
    )
    providers: tuple[str, ...] = setting(
        "PROVIDERS", words, "", "Providers that are served side by side, a comma list; unset: the default one alone."
    )
    provider_urls: tuple[tuple[str, str], ...] = setting(
        "PROVIDER_URLS",
        named_urls,
        "",
        "Replaces base_url of providers: azure=https://RESOURCE.openai.azure.com,ollama=http://10.0.0.5:11434.",
    )
    openai_api_url: str | None = setting(
        "OPENAI_API_URL", url("http", "https"), None, "Replaces the base_url of the provider openai."
    )
    request_timeout_s: float | None = setting(
        "REQUEST_TIMEOUT", duration("100ms"), None, "Total limit of responses that are no event streams."
    )
    connect_timeout_s: float = setting(
        "UPSTREAM_CONNECT_TIMEOUT", duration("0s"), "10s", "To connect, TLS included; 0 = none."
    )
    first_byte_timeout_s: float = setting(
        "UPSTREAM_FIRST_BYTE_TIMEOUT",
        duration("0s"),
        "600s",
        "From the request's end to the response's head; 0 = none.",
    )
    idle_timeout_s: float = setting(
        "UPSTREAM_IDLE_TIMEOUT", duration("0s"), "300s", "Longest silence inside a response; 0 = none."
    )
    circuit_breaker_failures: int = setting(
        "CIRCUIT_BREAKER_FAILURES",
        integer(0, 1_000_000),
        "5",
        "Failures in a row after which an endpoint and model, or a host, is not asked; 0 = off.",
    )
    circuit_breaker_open_s: float = setting(
        "CIRCUIT_BREAKER_OPEN", duration("100ms", "24h"), "30s", "How long it is not asked; then one request probes."
    )
    circuit_breaker_window_s: float = setting(
        "CIRCUIT_BREAKER_WINDOW", duration("0s"), "60s", "Failures that are older do not count; 0 = all do."
    )
    proxy_headers: bool = setting(
        "UPSTREAM_PROXY_HEADERS", boolean, "false", "Tell the provider X-Proxy and X-Proxy-Version."
    )

"""Settings of the database, keys at rest, tokens and what workers remember of them."""

import re
from dataclasses import dataclass
from pathlib import Path

from llm_proxy.settings.variable import (
    boolean,
    choice,
    duration,
    existing_file,
    file_path,
    folder,
    integer,
    key_bytes,
    key_list,
    none_or,
    setting,
    text,
)


@dataclass(frozen=True, kw_only=True)
class StorageSettings:
    """Database, pool, migrations, encryption at rest."""

    db_driver: str | None = setting(
        "DB_DRIVER",
        choice("sqlite", "postgres", "mysql", aliases={"postgresql": "postgres", "mariadb": "mysql"}),
        None,
        "sqlite, postgres or mysql; unset: by DATABASE_URL's form, else sqlite.",
    )
    path: str = setting("DATABASE_PATH", text, "./data/llm-proxy.db", "The SQLite file.")
    url: str | None = setting("DATABASE_URL", text, None, "Connection URL or DSN of PostgreSQL or MySQL.", secret=True)
    password: str | None = setting(
        "DATABASE_PASSWORD", text, None, "Used when DATABASE_URL has no password.", secret=True
    )
    pool_size: int = setting("DATABASE_POOL_SIZE", integer(1, 1000), "10", "Most connections of a worker.")
    max_idle_conns: int = setting(
        "DATABASE_MAX_IDLE_CONNS", integer(1, 1000), "5", "Idle connections kept; capped to the pool's size."
    )
    conn_max_lifetime_s: float = setting(
        "DATABASE_CONN_MAX_LIFETIME", duration("0s"), "1h", "Age at which a connection is replaced; 0 = none."
    )
    pool_timeout_s: float = setting(
        "DATABASE_POOL_TIMEOUT", duration("100ms", "5m"), "5s", "Longest wait for a free connection."
    )
    startup_timeout_s: float = setting(
        "DATABASE_STARTUP_TIMEOUT", duration("0s", "1h"), "60s", "How long a start waits for the database."
    )
    tls_ca: Path | None = setting("DATABASE_TLS_CA", existing_file, None, "CA bundle.")
    tls_cert: Path | None = setting("DATABASE_TLS_CERT", existing_file, None, "Client certificate.")
    tls_key: Path | None = setting("DATABASE_TLS_KEY", existing_file, None, "Client key.")
    outage_grace_s: float = setting(
        "DATABASE_OUTAGE_GRACE",
        duration("0s", "10m"),
        "0s",
        "How long known unlimited tokens go on while the database does not answer.",
    )
    auto_migrate: bool = setting("AUTO_MIGRATE", boolean, "true", "Apply pending migrations at the start.")
    migration_lock_timeout_s: float = setting(
        "MIGRATION_LOCK_TIMEOUT", duration("1s", "1h"), "60s", "Longest wait for another process's migration."
    )
    encryption_key: bytes | None = setting(
        "ENCRYPTION_KEY", key_bytes, None, "Encrypts provider keys at rest (base64 of 32 bytes).", secret=True
    )
    encryption_key_previous: tuple[bytes, ...] = setting(
        "ENCRYPTION_KEY_PREVIOUS", key_list, "", "Keys that still decrypt, comma-separated.", secret=True
    )
    require_encryption_key: bool = setting(
        "REQUIRE_ENCRYPTION_KEY", boolean, "false", "Refuse to start without ENCRYPTION_KEY."
    )

    @property
    def driver(self) -> str:
        """`sqlite`, `postgres` or `mysql`: DB_DRIVER, else by the form of DATABASE_URL."""
        if self.db_driver is not None:
            return self.db_driver
        if self.url is None:
            return "sqlite"
        return "postgres" if re.match(r"postgres|[a-z_]+\s*=", self.url) else "mysql"


@dataclass(frozen=True, kw_only=True)
class TokenSettings:
    """Defaults and life of tokens; what a worker remembers, at most one second."""

    default_lifetime_s: float | None = setting(
        "DEFAULT_TOKEN_LIFETIME", duration("0s", "365d"), None, "Lifetime when none is asked for; 0 = never expires."
    )
    default_request_limit: int | None = setting(
        "DEFAULT_TOKEN_REQUEST_LIMIT", integer(0, 2147483647), None, "max_requests when none is asked for."
    )
    cleanup_interval_s: float = setting(
        "TOKEN_CLEANUP_INTERVAL", duration("1s", zero=True), "1h", "Expired tokens are revoked so often; 0 = off."
    )
    retention_days: int = setting(
        "TOKEN_RETENTION_DAYS", integer(0, 36500), "0", "Delete dead tokens after so many days; 0 = keep."
    )
    usage_retention_days: int = setting(
        "USAGE_RETENTION_DAYS", none_or(integer(32, 36500)), "0", "Delete sums of usage after so many days; 0 = keep."
    )
    enforce_project_active: bool = setting(
        "LLM_PROXY_ENFORCE_PROJECT_ACTIVE", boolean, "true", "Refuse tokens of inactive projects."
    )
    active_cache_ttl_s: float = setting(
        "LLM_PROXY_ACTIVE_CACHE_TTL",
        duration("0s"),
        "5s",
        "How long a project's state is remembered; at most 1 s counts.",
    )
    active_cache_max: int = setting("LLM_PROXY_ACTIVE_CACHE_MAX", integer(1), "10000", "Projects remembered.")
    api_key_cache_ttl_s: float = setting(
        "LLM_PROXY_API_KEY_CACHE_TTL",
        duration("0s"),
        "30s",
        "How long a provider key is remembered; at most 1 s counts.",
    )
    api_key_cache_max: int = setting("LLM_PROXY_API_KEY_CACHE_MAX", integer(1), "10000", "Provider keys remembered.")
    cache_ttl_s: float = setting(
        "LLM_PROXY_TOKEN_CACHE_TTL", duration("0s", "1s"), "1s", "How long a token is remembered; 0 = read each time."
    )
    budgets_refuse_unseen: bool = setting(
        "BUDGETS_REFUSE_UNSEEN",
        boolean,
        "false",
        "Refuse batches, assistants, background responses and stored prompts to tokens with a budget.",
    )
    revoke_cuts_streams: bool = setting(
        "REVOKE_CUTS_STREAMS",
        boolean,
        "false",
        "Cut the live streams of a token that is revoked or whose project is deactivated.",
    )
    ledger_dir: Path | None = setting(
        "LEDGER_DIR", file_path, None, "Folder of the workers' ledgers; unset: ledger/ beside the data."
    )
    prices_file: Path | None = setting("PRICES_FILE", existing_file, None, "Price list that replaces the packaged one.")
    tiktoken_cache_dir: Path | None = setting(
        "TIKTOKEN_CACHE_DIR", folder, None, "Folder with tiktoken's encoding files."
    )
    validate_api_key_format: bool = setting(
        "VALIDATE_API_KEY_FORMAT", boolean, "false", "Refuse provider keys that do not start with sk-."
    )
    mask_api_keys: bool | None = setting("MASK_API_KEYS", boolean, None, "Accepted without effect: always masked.")
    cache_stats_buffer_size: int = setting(
        "CACHE_STATS_BUFFER_SIZE", integer(1), "1000", "Tokens with pending hit counts before an early flush."
    )
    usage_stats_buffer_size: int | None = setting(
        "USAGE_STATS_BUFFER_SIZE", integer(1), None, "Accepted without effect."
    )

"""Settings of the management plane, audit, logs, metrics, the admin UI and the command line."""

from dataclasses import dataclass
from pathlib import Path

from llm_proxy.settings.variable import (
    ListenAddress,
    address,
    boolean,
    choice,
    file_path,
    integer,
    path_prefix,
    setting,
    text,
    url,
)


@dataclass(frozen=True, kw_only=True)
class OperationSettings:
    """What operators hold in their hands."""

    management_token: str = setting("MANAGEMENT_TOKEN", text, "", "Bearer for /manage. Required.", secret=True)
    management_token_previous: str | None = setting(
        "MANAGEMENT_TOKEN_PREVIOUS", text, None, "Accepted beside it while it is rotated.", secret=True
    )
    management_token_use: str = setting(
        "MANAGEMENT_TOKEN_USE",
        choice("any", "loopback", "off"),
        "any",
        "Where MANAGEMENT_TOKEN is accepted: any address, loopback peers only, or off (management keys only).",
    )
    audit_enabled: bool = setting("AUDIT_ENABLED", boolean, "true", "Whether actions are audited.")
    audit_log_file: str = setting("AUDIT_LOG_FILE", text, "./data/audit.log", "Audit file; empty = none.", empty="")
    audit_create_dir: bool = setting("AUDIT_CREATE_DIR", boolean, "true", "Make the audit file's folder.")
    audit_store_in_db: bool = setting("AUDIT_STORE_IN_DB", boolean, "true", "Keep audit records in the database.")
    audit_required: bool = setting("AUDIT_REQUIRED", boolean, "false", "Refuse mutations that cannot be audited.")
    audit_fsync: bool = setting("AUDIT_FSYNC", boolean, "false", "Force each audit record to the disk.")
    audit_log_max_size_mb: int = setting(
        "AUDIT_LOG_MAX_SIZE_MB", integer(0, 1_000_000), "100", "Rotate the audit file at this size; 0 = off."
    )
    audit_log_max_backups: int = setting("AUDIT_LOG_MAX_BACKUPS", integer(0, 1000), "5", "Rotated audit files kept.")
    audit_retention_days: int = setting(
        "AUDIT_RETENTION_DAYS", integer(0, 36500), "0", "Delete audit rows after so many days; 0 = keep."
    )
    log_level: str = setting(
        "LOG_LEVEL",
        choice("debug", "info", "warn", "error", aliases={"warning": "warn"}),
        "info",
        "Least level logged.",
    )
    log_format: str = setting(
        "LOG_FORMAT", choice("json", "text", aliases={"console": "text"}), "json", "json or text."
    )
    log_file: Path | None = setting("LOG_FILE", file_path, None, "Log file; unset: standard output.")
    log_max_size_mb: int = setting("LOG_MAX_SIZE_MB", integer(0, 1_000_000), "10", "Rotate LOG_FILE; 0 = off.")
    log_max_backups: int = setting("LOG_MAX_BACKUPS", integer(0, 1000), "5", "Rotated log files kept.")
    enable_metrics: bool = setting("ENABLE_METRICS", boolean, "true", "Serve metrics.")
    metrics_path: str = setting("METRICS_PATH", path_prefix, "/metrics", "Path of the metrics.")
    admin_ui_enabled: bool = setting("ADMIN_UI_ENABLED", boolean, "true", "Serve the admin UI.")
    admin_ui_path: str = setting("ADMIN_UI_PATH", path_prefix, "/admin", "Path of the admin UI.")
    admin_ui_listen_addr: ListenAddress = setting(
        "ADMIN_UI_LISTEN_ADDR", address, ":8081", "Address of the admin UI's own process."
    )
    admin_ui_api_base_url: str = setting(
        "ADMIN_UI_API_BASE_URL",
        url("http", "https"),
        "http://localhost:8080",
        "Proxy that the admin UI's own process talks to.",
    )
    admin_ui_template_dir: Path | None = setting(
        "ADMIN_UI_TEMPLATE_DIR", file_path, None, "Folder of templates that replace packaged ones of the same name."
    )
    admin_ui_read_only: bool = setting(
        "ADMIN_UI_READ_ONLY", boolean, "false", "Show everything in the admin UI, and let nothing be changed there."
    )
    admin_ui_cookie_secure: str = setting(
        "ADMIN_UI_COOKIE_SECURE", choice("auto", "true", "false"), "auto", "Secure attribute of the session cookie."
    )


@dataclass(frozen=True, kw_only=True)
class CommandSettings:
    """Read by commands only."""

    management_api_base_url: str = setting(
        "MANAGEMENT_API_BASE_URL", url("http", "https"), "http://localhost:8080", "Proxy that `manage` talks to."
    )
    management_key: str | None = setting(
        "LLM_PROXY_MANAGEMENT_KEY",
        text,
        None,
        "Management key that commands use, before MANAGEMENT_TOKEN.",
        secret=True,
    )
    proxy_url: str = setting(
        "PROXY_URL", url("http", "https"), "http://localhost:8080", "Proxy that `openai` talks to."
    )
    proxy_token: str | None = setting(
        "PROXY_TOKEN", text, None, "Token that `openai` and `benchmark` use.", secret=True
    )
    openai_api_key: str | None = setting(
        "OPENAI_API_KEY", text, None, "Provider key, for `setup` and bin/up alone.", secret=True
    )

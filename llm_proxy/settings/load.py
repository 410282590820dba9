"""From an environment, an env file and secret files to Settings; every fault at once, never a secret's value."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from dotenv import dotenv_values

from llm_proxy.settings.declare import Variable
from llm_proxy.settings.schema import Settings

SAMPLE_MANAGEMENT_TOKEN = "change-me-to-a-long-random-string"  # noqa: S105  (.env.example's; refused at start, MP-20)

FROM_FILE = (  # X_FILE supplies X (management.md §7.1)
    "MANAGEMENT_TOKEN",
    "MANAGEMENT_TOKEN_PREVIOUS",
    "ENCRYPTION_KEY",
    "ENCRYPTION_KEY_PREVIOUS",
    "DATABASE_URL",
    "DATABASE_PASSWORD",
    "REDIS_PASSWORD",
    "REDIS_CACHE_URL",
    "DISTRIBUTED_RATE_LIMIT_KEY_SECRET",
    "LLM_PROXY_API_KEY",
)
OTHER_NAMES = {"LLM_PROXY_ENV_FILE", "HELICONE_API_KEY", *(f"{name}_FILE" for name in FROM_FILE)}
_KUBERNETES = re.compile(r"_(?:SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_[0-9]+_(?:TCP|UDP|SCTP)\w*)$")  # MP-134


class SettingsError(Exception):
    """One or more variables that the program does not start with; a line each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load found. `settings` has defaults in place of what was faulty.

    `sources` tells where each variable that is set came from: `environment`, `env file`, `secret file`.
    """

    settings: Settings
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)

    def checked(self) -> Settings:
        """The settings. Raises SettingsError when there is a fault."""
        if self.faults:
            raise SettingsError(self.faults)
        return self.settings


def variables() -> dict[str, Variable]:
    """Attribute name → declaration, in the order of declaration."""
    return {f.name: f.metadata["variable"] for f in fields(Settings)}


def load(
    environ: Mapping[str, str] | None = None,
    env_file: str | Path | None = None,
    *,
    overrides: Mapping[str, str] | None = None,
) -> Loaded:
    """Read everything once. Precedence: `overrides` (flags) > environment > env file > default (MP-133).

    Args:
        environ: Default: the process's environment. Never changed.
        env_file: Default: LLM_PROXY_ENV_FILE, else `.env` in the working directory. A file that was asked for and is
            missing is a fault; a missing `.env` is not.
        overrides: Variables set by flags, by their environment names.
    """
    faults: list[str] = []
    raw = _merge(os.environ if environ is None else environ, env_file, overrides or {}, faults)
    values: dict[str, object] = {}
    warnings: list[str] = []
    for name, variable in variables().items():
        if variable.env not in raw:
            continue
        text = raw[variable.env][0].strip()
        if not text:  # empty counts as unset, but for three variables (data-plane §6)
            if variable.keeps_empty:
                values[name] = "" if isinstance(variable.default, str) and variable.parse.__name__ == "text" else None
                if variable.env == "EVENT_SPOOL_DIR":
                    values[name] = ""
            continue
        try:
            values[name] = variable.parse(text)
        except ValueError as exc:
            faults.append(f"{variable.env}={'***' if variable.secret else text}: expected {exc}")
    settings = Settings(**values)  # type: ignore[arg-type]
    _judge_early(settings, raw, faults, warnings)
    for check in CHECKS:
        check(settings, faults, warnings)
    warnings += _strangers(raw)
    sources = {name: source for name, (_, source) in raw.items()}
    return Loaded(settings, faults, warnings, sources)


def _merge(
    environ: Mapping[str, str], env_file: str | Path | None, overrides: Mapping[str, str], faults: list[str]
) -> dict[str, tuple[str, str]]:
    """Variable → (text, source). Kubernetes' service variables are left out."""
    asked = env_file if env_file is not None else environ.get("LLM_PROXY_ENV_FILE") or None
    path = Path(asked) if asked is not None else Path(".env")
    merged: dict[str, tuple[str, str]] = {}
    if path.is_file():
        try:
            found = dotenv_values(path, interpolate=False)
        except (OSError, UnicodeDecodeError):
            found = {}
            faults.append(f"LLM_PROXY_ENV_FILE={path}: expected a readable UTF-8 file")
        merged = {name: (value, "env file") for name, value in found.items() if value}
    elif asked is not None:
        faults.append(f"LLM_PROXY_ENV_FILE={path}: expected an existing file")
    keeps_empty = {v.env for v in variables().values() if v.keeps_empty}
    for name, value in environ.items():
        if value.strip() or name in keeps_empty:
            merged[name] = (value, "environment")
    merged.update({name: (value, "flag") for name, value in overrides.items()})
    merged = {name: pair for name, pair in merged.items() if not _KUBERNETES.search(name) or name in ("REDIS_PORT",)}
    for name in FROM_FILE:
        _read_secret_file(name, merged, faults)
    return merged


def _read_secret_file(name: str, merged: dict[str, tuple[str, str]], faults: list[str]) -> None:
    if f"{name}_FILE" not in merged:
        return
    path = merged[f"{name}_FILE"][0].strip()
    if name in merged and merged[name][0].strip():
        faults.append(f"{name}_FILE={path}: expected to be the only one of {name} and {name}_FILE")
        return
    try:
        merged[name] = (Path(path).read_text().strip(), "secret file")
    except (OSError, UnicodeDecodeError):
        faults.append(f"{name}_FILE={path}: expected a readable file")


def _judge_early(
    settings: Settings, raw: Mapping[str, tuple[str, str]], faults: list[str], warnings: list[str]
) -> None:
    """Variables of features that this version lacks: one warning, or a fault where silence would be unsafe."""
    for name, variable in variables().items():
        if variable.later is None or variable.env not in raw:
            continue
        value, default = getattr(settings, name), Settings.__dataclass_fields__[name].default
        if value == default or (variable.env == "DB_DRIVER" and value == "sqlite"):
            continue
        if variable.is_unsafe_early:
            shown = "***" if variable.secret else raw[variable.env][0].strip()
            allowed = variable.default if variable.default not in (None, "") else "it to be unset"
            allowed = "sqlite" if variable.env == "DB_DRIVER" else allowed
            faults.append(f"{variable.env}={shown}: expected {allowed}; {variable.later} is not in this version")
        else:
            warnings.append(f"{variable.env} has no effect yet: {variable.later} is not in this version")


def _check_encryption(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    if settings.encryption_key is None:
        if settings.require_encryption_key:
            faults.append(
                "ENCRYPTION_KEY=: expected base64 of 32 bytes, because REQUIRE_ENCRYPTION_KEY is set; "
                "make one with: openssl rand -base64 32"
            )
        else:
            warnings.append("ENCRYPTION_KEY is not set: provider keys are stored in clear")


def _check_management_token(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    token = settings.management_token
    if token == SAMPLE_MANAGEMENT_TOKEN:
        faults.append("MANAGEMENT_TOKEN=***: expected a value of your own, not the sample's")
    elif token and len(token) < 16:
        warnings.append("MANAGEMENT_TOKEN is shorter than 16 characters")


def _check_admin_path(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    reserved = ("/v1", "/manage", settings.metrics_path, "/health", "/ready", "/live")
    path = settings.admin_ui_path
    if any(path == other or path.startswith(other + "/") for other in reserved):
        faults.append(f"ADMIN_UI_PATH={path}: expected a path outside {', '.join(reserved)}")  # MP-156


def _check_metrics_path(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    reserved = ("/v1", "/manage", "/health", "/ready", "/live")
    path = settings.metrics_path
    if any(path == other or path.startswith(other + "/") for other in reserved):
        faults.append(f"METRICS_PATH={path}: expected a path outside {', '.join(reserved)}")


def _check_database(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    if settings.driver != "sqlite" and settings.database_url is None:
        faults.append(f"DATABASE_URL=: expected a connection URL, DATABASE_URL is required for {settings.driver}")
    if settings.db_driver == "sqlite" and settings.database_url is not None:
        warnings.append("DATABASE_URL is ignored because DB_DRIVER is sqlite")
    if settings.driver == "sqlite" and settings.database_path == ":memory:" and settings.workers > 1:
        faults.append(f"WEB_CONCURRENCY={settings.workers}: expected 1 with DATABASE_PATH=:memory:")


def _check_cache_sizes(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    if settings.http_cache_memory_max_bytes < settings.http_cache_max_object_bytes:
        faults.append(
            f"HTTP_CACHE_MEMORY_MAX_BYTES={settings.http_cache_memory_max_bytes}: expected at least "
            f"HTTP_CACHE_MAX_OBJECT_BYTES ({settings.http_cache_max_object_bytes})"
        )


def _check_tls(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    if settings.enable_tls:
        for env, path in (("TLS_CERT_FILE", settings.tls_cert_file), ("TLS_KEY_FILE", settings.tls_key_file)):
            if not path.is_file():
                faults.append(f"{env}={path}: expected an existing file, because ENABLE_TLS is set")


def _check_without_effect(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    if settings.worker_pool_size is not None:
        warnings.append("WORKER_POOL_SIZE has no effect")
    if settings.mask_api_keys is not None and not settings.mask_api_keys:
        warnings.append("MASK_API_KEYS has no effect: keys are always masked")
    if not settings.observability_enabled:
        warnings.append("OBSERVABILITY_ENABLED is deprecated and has no effect")
    if settings.usage_stats_buffer_size is not None:
        warnings.append("USAGE_STATS_BUFFER_SIZE has no effect")


CHECKS: tuple[Callable[[Settings, list[str], list[str]], None], ...] = (
    _check_encryption,
    _check_management_token,
    _check_admin_path,
    _check_metrics_path,
    _check_database,
    _check_cache_sizes,
    _check_tls,
    _check_without_effect,
)


def _strangers(raw: Mapping[str, tuple[str, str]]) -> list[str]:
    """Unknown names that look like a mistyped one of ours: edit distance 1 or 2 (MP-193)."""
    known = {v.env for v in variables().values()} | OTHER_NAMES
    found = []
    for name in raw:
        if name in known or len(name) < 8:
            continue
        near = min((k for k in known if abs(len(k) - len(name)) <= 2), key=lambda k: _distance(name, k), default=None)
        if near is not None and _distance(name, near) <= 2:
            found.append(f"{name} is not a variable of ours; did you mean {near}?")
    return found


def _distance(a: str, b: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]

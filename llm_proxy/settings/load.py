"""From an environment, an env file and secret files to Settings; every fault at once, never a secret's value."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llm_proxy.runtime.faults import Faults
from llm_proxy.settings.redis_address import without_password
from llm_proxy.settings.schema import Settings, variables
from llm_proxy.settings.sources import merge
from llm_proxy.settings.suggestions import unknown_variables
from llm_proxy.settings.variable import UNSET

SAMPLE_MANAGEMENT_TOKEN = "change-me-to-a-long-random-string"  # noqa: S105  (.env.example's; refused at start)


class SettingsError(Faults):
    """One or more variables that the program does not start with; a line each."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load found. `settings` has defaults in place of what was faulty.

    `sources` tells where each variable that is set came from: `environment`, `env file`, `secret file`. `misspelled` are
    those of the warnings that name a variable which may have been meant.
    """

    settings: Settings
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    misspelled: list[str] = field(default_factory=list)

    def checked(self) -> Settings:
        """Return the settings. Raises SettingsError when there is a fault."""
        if self.faults:
            raise SettingsError(self.faults)
        return self.settings


def load(
    environ: Mapping[str, str] | None = None,
    env_file: str | Path | None = None,
    *,
    overrides: Mapping[str, str] | None = None,
) -> Loaded:
    """Read everything once. Precedence: `overrides` (flags) > environment > env file > default.

    Args:
        environ: Default: the process's environment. Never changed.
        env_file: Default: LLM_PROXY_ENV_FILE, else `.env` in the working directory. A file that was asked for and is
            missing is a fault; a missing `.env` is not.
        overrides: Variables set by flags, by their environment names.
    """
    faults: list[str] = []
    raw = merge(os.environ if environ is None else environ, env_file, overrides or {}, faults)
    values: dict[str, object] = {}
    warnings: list[str] = []
    for path, variable in variables().items():
        if variable.env not in raw:
            continue
        text = raw[variable.env][0].strip()
        if not text:
            values |= {} if variable.empty is UNSET else {path: variable.empty}
            continue
        try:
            values[path] = variable.parse(text)
        except ValueError as exc:
            faults.append(f"{variable.env}={'***' if variable.secret else without_password(text)}: expected {exc}")
    settings = Settings.from_paths(values)
    for check in CHECKS:
        check(settings, faults, warnings)
    misspelled = unknown_variables(raw)
    sources = {name: source for name, (_, source) in raw.items()}
    return Loaded(settings, faults, [*warnings, *misspelled], sources, misspelled)


def _check_encryption(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    if settings.storage.encryption_key is None:
        if settings.storage.require_encryption_key:
            faults.append(
                "ENCRYPTION_KEY is not set: expected base64 of 32 bytes, because REQUIRE_ENCRYPTION_KEY is set; "
                "make one with: openssl rand -base64 32"
            )
        else:
            warnings.append("ENCRYPTION_KEY is not set: provider keys are stored in clear")


def _check_management_token(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    token = settings.operation.management_token
    if token == SAMPLE_MANAGEMENT_TOKEN:
        faults.append("MANAGEMENT_TOKEN=***: expected a value of your own, not the sample's")
    elif token and len(token) < 16:
        warnings.append("MANAGEMENT_TOKEN is shorter than 16 characters")


def _check_management_token_use(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    if settings.operation.management_token_use == "loopback" and settings.server.trusted_proxies:  # noqa: S105  (a word, no secret)
        faults.append(
            "MANAGEMENT_TOKEN_USE=loopback: expected TRUSTED_PROXIES to be unset, "
            "because behind a proxy the socket's peer is not the client"
        )


def _check_admin_path(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    reserved = ("/v1", "/manage", settings.operation.metrics_path, "/health", "/ready", "/live")
    path = settings.operation.admin_ui_path
    if any(path == other or path.startswith(other + "/") for other in reserved):
        faults.append(f"ADMIN_UI_PATH={path}: expected a path outside {', '.join(reserved)}")


def _check_metrics_path(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    reserved = ("/v1", "/manage", "/health", "/ready", "/live")
    path = settings.operation.metrics_path
    if any(path == other or path.startswith(other + "/") for other in reserved):
        faults.append(f"METRICS_PATH={path}: expected a path outside {', '.join(reserved)}")


def _check_database(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    if settings.storage.driver != "sqlite" and settings.storage.url is None:
        faults.append(
            f"DATABASE_URL is not set: expected a connection URL, DATABASE_URL is required for {settings.storage.driver}"
        )
    if settings.storage.db_driver == "sqlite" and settings.storage.url is not None:
        warnings.append("DATABASE_URL is ignored because DB_DRIVER is sqlite")
    if settings.storage.driver == "sqlite" and settings.storage.path == ":memory:" and settings.workers > 1:
        faults.append(f"WEB_CONCURRENCY={settings.workers}: expected 1 with DATABASE_PATH=:memory:")


def _check_cache_sizes(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    if settings.cache.memory_max_bytes < settings.cache.max_object_bytes:
        faults.append(
            f"HTTP_CACHE_MEMORY_MAX_BYTES={settings.cache.memory_max_bytes}: expected at least "
            f"HTTP_CACHE_MAX_OBJECT_BYTES ({settings.cache.max_object_bytes})"
        )


def _check_tls(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    if settings.server.enable_tls:
        for env, path in (
            ("TLS_CERT_FILE", settings.server.tls_cert_file),
            ("TLS_KEY_FILE", settings.server.tls_key_file),
        ):
            if not path.is_file():
                faults.append(f"{env}={path}: expected an existing file, because ENABLE_TLS is set")


def _check_dispatcher(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    if settings.dispatcher.batch_size > settings.dispatcher.buffer:
        faults.append(
            f"DISPATCHER_BATCH_SIZE={settings.dispatcher.batch_size}: expected at most DISPATCHER_BUFFER "
            f"({settings.dispatcher.buffer})"
        )


def _check_without_effect(settings: Settings, faults: list[str], warnings: list[str]) -> None:
    if settings.server.worker_pool_size is not None:
        warnings.append("WORKER_POOL_SIZE has no effect")
    if settings.tokens.mask_api_keys is not None and not settings.tokens.mask_api_keys:
        warnings.append("MASK_API_KEYS has no effect: keys are always masked")
    if not settings.events.observability_enabled:
        warnings.append("OBSERVABILITY_ENABLED is deprecated and has no effect")
    if settings.tokens.usage_stats_buffer_size is not None:
        warnings.append("USAGE_STATS_BUFFER_SIZE has no effect")


CHECKS: tuple[Callable[[Settings, list[str], list[str]], None], ...] = (
    _check_encryption,
    _check_management_token,
    _check_management_token_use,
    _check_admin_path,
    _check_metrics_path,
    _check_database,
    _check_cache_sizes,
    _check_tls,
    _check_dispatcher,
    _check_without_effect,
)

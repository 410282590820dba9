"""What a server's master does before anything is served, and again before a reload."""

import contextlib
import os
import pickle
import sys
from collections.abc import Iterator

from sqlalchemy import Engine

from llm_proxy import logs
from llm_proxy.access import sign_in
from llm_proxy.access.gate import OFF
from llm_proxy.access.service import has_unrestricted_admin
from llm_proxy.accounting import ledger
from llm_proxy.audit import file as audit_file
from llm_proxy.audit.record import AuditEvent
from llm_proxy.audit.writer import AuditWriter
from llm_proxy.db.engine import connector_of_settings, create_engine
from llm_proxy.db.errors import DatabaseAway, DatabaseFault
from llm_proxy.db.prepare import prepare as prepare_database
from llm_proxy.db.prepare import prepare_patiently
from llm_proxy.db.raw import CONNECTIONS
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.providers import ProviderFileError, load_provider
from llm_proxy.settings import LimitSettings, Loaded, OperationSettings, Settings
from llm_proxy.transport import check_certificates, check_proxies
from llm_proxy.usage import prices


class StartRefused(Exception):
    """The start must stop; the text is the line to say."""


def check(loaded: Loaded) -> list[str]:
    """Everything that would make a worker fail or serve wrongly, a line each. Changes nothing."""
    settings = loaded.settings
    faults = list(loaded.faults)
    if not settings.operation.management_token:
        faults.append(
            "MANAGEMENT_TOKEN is not set: add MANAGEMENT_TOKEN=<32 random characters> to .env or the environment"
        )
    try:
        provider = load_provider(settings).provider
    except ProviderFileError as exc:
        faults += exc.faults
    else:
        faults += check_proxies([provider.origin])
        if provider.origin.startswith("https:"):
            faults += check_certificates()
    try:
        connector_of_settings(settings.storage)
    except DatabaseFault as exc:
        faults.append(str(exc))
    faults += prices.fault_lines(settings.tokens)
    faults += sign_in.fault_lines(settings.sign_in)
    files = (logs.fault(settings.operation), audit_file.fault(settings.operation), ledger.fault(settings))
    return faults + [fault for fault in files if fault is not None]


def refusal(loaded: Loaded) -> list[str]:
    """Return the lines that refuse a start: faults, then misspelled variables; empty where it may start."""
    faults = check(loaded)
    return [*faults, *loaded.misspelled] if faults else []


def notes(settings: Settings) -> tuple[list[str], list[str]]:
    """Warnings and notes of provider file and database, for the log at the start. Raises ProviderFileError."""
    loaded = load_provider(settings)
    connector = connector_of_settings(settings.storage)
    most = settings.workers * (settings.storage.pool_size + 2 * CONNECTIONS)
    pools = f"database: at most {most} connections of {settings.workers} workers of this host"
    told = [] if connector.dialect == "sqlite" else [pools]
    return [*loaded.warnings, *connector.warnings], [*loaded.notes, *told, *_limits(settings.limits)]


def _limits(settings: LimitSettings) -> list[str]:
    """Log the limits that hold for all clients."""
    windows = []
    if settings.global_rate_limit:
        windows.append(f"{settings.global_rate_limit} requests a minute in all")
    if settings.ip_rate_limit:
        windows.append(f"{settings.ip_rate_limit} from one address")
    most = settings.distributed_max or (60 if settings.distributed_enabled else None)
    if most is not None:
        windows.append(f"{most} in {settings.distributed_window_s:g} s of each token")
    if not windows:
        return []
    place = "in Redis, over all replicas" if settings.distributed_enabled else "on this server"
    return [f"limits, counted {place}: {', '.join(windows)}"]


def prepare(settings: Settings) -> None:
    """Migrate, and see that every sealed row has its key.

    Raises:
        StartRefused: The start must stop.
        DatabaseAway: The database does not answer, and there is time to wait for it: serve, and let `Preparation` try.
    """
    with _refusing():
        engine = create_engine(settings.storage)
        try:
            _record(prepare_database(engine, settings.storage), engine, settings)
            _require_admin(engine, settings.operation)
        except DatabaseAway as away:
            if settings.storage.driver == "sqlite" or not settings.storage.startup_timeout_s:
                raise
            raise _Later(str(away)) from None
        finally:
            engine.dispose()


def _require_admin(engine: Engine, settings: OperationSettings) -> None:
    """Raise DatabaseFault where the root token is off and no management key could take its place."""
    if settings.management_token_use == OFF and not has_unrestricted_admin(engine):
        raise DatabaseFault(
            "MANAGEMENT_TOKEN_USE=off: expected a live management key with the role admin and all projects; "
            "make one with: llm-proxy manage key create --role admin"
        )


def _record(migrated: list[str], engine: Engine, settings: Settings) -> None:
    """Write a migration into the audit trail."""
    if not migrated:
        return
    try:
        writer = AuditWriter.from_settings(engine, settings)
    except OSError:  # `check` has looked; a worker will say so
        return
    writer.record(AuditEvent(AuditAction.SYSTEM_MIGRATE, "system", "success", details={"revisions": migrated}))


class _Later(Exception):
    """The database is unavailable; not a fault yet."""


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except _Later as later:
        raise DatabaseAway(str(later)) from None
    except DatabaseFault as exc:
        raise StartRefused(str(exc)) from None


class Preparation:
    """`prepare` in its own process while the server runs: the master's loop must not wait for a database.

    The child gets the settings over a pipe, not from the environment, and ends when the master does.
    """

    def __init__(self, settings: Settings) -> None:
        given, self._give = os.pipe()
        self._result, result = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, given, 0), (os.POSIX_SPAWN_DUP2, result, 3)]
        # Neither fork, which would take the listeners along, nor subprocess, which wants the master's SIGCHLD.
        os.posix_spawn(sys.executable, [sys.executable, "-m", __name__], os.environ, file_actions=actions)
        os.close(given)
        os.close(result)
        with os.fdopen(os.dup(self._give), "wb") as pipe:
            pipe.write(pickle.dumps(settings))
        os.close(self._give)
        os.set_blocking(self._result, False)
        self._said = b""

    def poll(self) -> bool:
        """Whether it is done; never waits. Raises StartRefused with the line to say."""
        try:
            while part := os.read(self._result, 65536):
                self._said += part
        except BlockingIOError:
            return False
        os.close(self._result)
        if self._said != _DONE:
            raise StartRefused(self._said.decode() or "the database could not be prepared: the process for it has died")
        return True


_DONE = b"done"


def _main() -> None:
    settings: Settings = pickle.loads(sys.stdin.buffer.read())  # noqa: S301  (from this server's master)
    logs.configure(settings)
    master, said = os.getppid(), _DONE
    try:
        engine = create_engine(settings.storage)
        _record(prepare_patiently(engine, settings.storage, is_wanted=lambda: os.getppid() == master), engine, settings)
        _require_admin(engine, settings.operation)
    except DatabaseFault as exc:
        said = str(exc).encode()
    with contextlib.suppress(BrokenPipeError):  # the master has ended and does not read it
        os.write(3, said)


if __name__ == "__main__":
    _main()

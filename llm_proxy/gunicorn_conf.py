"""gunicorn's configuration: `gunicorn -c python:llm_proxy.gunicorn_conf`, which is also what `llm-proxy server` runs.

Everything comes from Settings; options on gunicorn's command line win, but for those that would break the server. The
hooks run in the master: faults end the start with one line each, and a dead worker's metrics are added up.
"""

import gc

gc.disable()  # until the application is imported, see server/loaded_code.py

from llm_proxy.runtime import patching  # noqa: E402

patching.patch_all()  # before anything is imported that keeps a reference to what is patched

import logging  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import ssl  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from llm_proxy import __version__, logs  # noqa: E402
from llm_proxy.runtime import core_dumps, shared_dir  # noqa: E402
from llm_proxy.server import configuration, fresh_worker, interpreter  # noqa: E402
from llm_proxy.settings import Loaded, hand_over, handed_over, load  # noqa: E402

ORPHANS_LIMIT_S = 10.0
_log = logging.getLogger("llm_proxy.server")


def _metrics_folder(asked: Path | None) -> str:
    """Return the folder of the workers' metric files; a temporary one when none was asked for."""
    if fresh_worker.is_this():
        return os.environ["PROMETHEUS_MULTIPROC_DIR"]
    if asked is None:
        return shared_dir.make(shared_dir.METRICS_PREFIX)
    if _is_upgrade and asked.name.startswith(shared_dir.METRICS_PREFIX):  # made by the master before this one
        shared_dir.hold(str(asked))
    return str(asked)


def _end(number: int, frame: object) -> None:
    """Stop a start that gunicorn's own handlers do not guard yet, so that its folders are removed."""
    sys.exit(0)


for _signal in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
    signal.signal(_signal, _end)  # gunicorn replaces them before it forks

core_dumps.disable()
_loaded = load()
_settings = _loaded.settings
hand_over(_loaded)
_is_upgrade = "GUNICORN_PID" in os.environ  # SIGUSR2: another master serves beside this one
# before prometheus_client is imported
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics_folder(_settings.server.prometheus_multiproc_dir)
os.environ[shared_dir.VARIABLE] = shared_dir.of_server(is_inherited=fresh_worker.is_this())
os.environ.pop("SCRIPT_NAME", None)  # gunicorn would cut it off every path

wsgi_app = "llm_proxy.wsgi:app"
proc_name = "llm-proxy"
bind = configuration.binds(_settings.server.listen_addr)
workers = _settings.workers
worker_class = "llm_proxy.server.worker.Worker"
_descriptors = configuration.raise_descriptor_limit()
worker_connections = configuration.worker_connections(_descriptors)
worker_tmp_dir = configuration.heartbeat_folder()
graceful_timeout = configuration.stop_limit_s(_settings.server)
keepalive = 2  # anything but 0; the worker has its own limits
preload_app = False
control_socket_disable = True

forwarded_allow_ips = ""  # addresses and schemes behind trusted proxies are the application's business
forwarder_headers = ""
secure_scheme_headers: dict[str, str] = {}
header_map = "drop"
limit_request_line = 8190
permit_unconventional_http_version = True  # server/request_checks.py decides: 1.2 counts as 1.1, others are refused

accesslog = None
logger_class = "llm_proxy.server.log.Log"
loglevel = {"warn": "warning"}.get(_settings.operation.log_level, _settings.operation.log_level)

if _settings.server.enable_tls:
    certfile, keyfile = str(_settings.server.tls_cert_file), str(_settings.server.tls_key_file)


def ssl_context(config: Any, default_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """gunicorn's context, with TLS_MIN_VERSION."""
    context = default_factory()
    loaded = handed_over()
    assert loaded is not None
    context.minimum_version = configuration.TLS_VERSIONS[loaded.settings.server.tls_min_version]
    return context


# -- the start --------------------------------------------------------------------------------------------------------


def on_starting(server: Any) -> None:
    """Refuse what must not run, prepare what must be done once, and replace the arbiter's class.

    Raises:
        RuntimeError: gunicorn prints its text after `Error:` and ends with 1.
    """
    from llm_proxy.server.arbiter import ProxyArbiter
    from llm_proxy.server.loaded_code import LoadedCode

    try:
        _refuse([*_check(_loaded), *_wrong_options(server.cfg)])
        if not _is_upgrade:
            _refuse(_busy(server.cfg))
        unfinished = _prepare(server)
    except RuntimeError as refusal:
        if server.pidfile is not None:
            server.pidfile.unlink()
        print(f"Error: {refusal}", file=sys.stderr)  # gunicorn would put empty lines around it
        sys.exit(1)
    renewal = configuration.Renewal(_loaded, read=load, check=_check, apply=_apply)
    renewal.keeps_workers = server.cfg.workers != workers
    renewal.unfinished = unfinished
    code = LoadedCode()
    code.load(_prepare_app if server.app.app_uri.endswith("wsgi:app") else _nothing)
    ProxyArbiter.adopt(server, renewal, code)
    if sys.argv[0].endswith("__main__.py"):  # SIGUSR2 would run the file, whose folder hides the standard http
        server.START_CTX["args"] = [sys.executable, "-m", "gunicorn", *sys.argv[1:]]
    _tell(server.cfg)


def _prepare_app() -> None:
    from llm_proxy.app import prepare

    prepare()


def _nothing() -> None:
    """Prepare nothing: workers serve another application."""


def _refuse(faults: list[str]) -> None:
    if faults:
        raise RuntimeError("\n".join(faults))


def _check(loaded: Loaded) -> list[str]:
    from llm_proxy import preflight

    return preflight.refusal(loaded)


def _apply(loaded: Loaded) -> None:
    """Put settings in place for workers forked from now on."""
    hand_over(loaded)
    try:
        logs.configure(loaded.settings)
    except OSError as exc:
        _log.error(
            "LOG_FILE=%s can't be opened, the log stays where it is: %s",
            loaded.settings.operation.log_file,
            exc.strerror,
        )


def _wrong_options(cfg: Any) -> list[str]:
    from llm_proxy.server.worker import Worker

    wrong = (
        (cfg.preload_app, "--preload: expected not to be given, workers load the application themselves"),
        (cfg.reload, "--reload: expected not to be given, SIGHUP reloads"),
        (not issubclass(cfg.worker_class, Worker), f"--worker-class: expected {worker_class}"),
        (cfg.protocol != "http", f"--protocol={cfg.protocol}: expected http"),
        (tuple(cfg.http_protocols) != ("h1",), "--http-protocols: expected h1"),
    )
    return [fault for is_wrong, fault in wrong if is_wrong]


def _busy(cfg: Any) -> list[str]:
    if os.environ.get("LISTEN_PID") == str(os.getpid()):  # systemd has bound them
        return []
    found = _busy_addresses(cfg)
    until = time.monotonic() + ORPHANS_LIMIT_S
    while found and all(shared_dir.is_held_by_orphans(_shown(address)) for address, _ in found):
        if time.monotonic() > until:
            break
        time.sleep(0.05)  # workers whose master was killed close their listeners within a second or two
        found = _busy_addresses(cfg)
    return [f"LISTEN_ADDR={_shown(address)}: {reason}" for address, reason in found]


def _busy_addresses(cfg: Any) -> list[tuple[Any, str]]:
    found = ((address, configuration.busy_address(address)) for address in cfg.address)
    return [(address, reason) for address, reason in found if reason is not None]


def _shown(address: Any) -> str:
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"fd://{address}" if isinstance(address, int) else f"unix:{address}"


def _prepare(server: Any) -> Callable[[], bool] | None:
    """Return what has to be asked until it is done, when the database is not there yet."""
    from llm_proxy import metrics, preflight
    from llm_proxy.db.errors import DatabaseAway

    try:
        logs.configure(_settings)
    except OSError as exc:
        raise RuntimeError(
            f"LOG_FILE={_settings.operation.log_file}: expected a file to write to ({exc.strerror})"
        ) from None
    folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
    if swept := shared_dir.sweep():
        _log.info("%s folders of servers that were killed have been removed", swept)
    shared_dir.note_server(os.environ[shared_dir.VARIABLE], [_shown(address) for address in server.cfg.address])
    if not _is_upgrade:
        metrics.clear_folder(folder)
    if os.geteuid() == 0 and server.cfg.uid != 0:
        for each in (folder, os.environ[shared_dir.VARIABLE]):
            os.chown(each, server.cfg.uid, server.cfg.gid)
    try:
        preflight.prepare(_settings)
    except preflight.StartRefused as exc:
        raise RuntimeError(str(exc)) from None
    except DatabaseAway as away:
        _log.warning("%s: serving without it, for at most DATABASE_STARTUP_TIMEOUT", away)
        return _preparing(preflight.Preparation(_settings))
    return None


def _preparing(preparation: Any) -> Callable[[], bool]:
    from gunicorn.errors import HaltServer

    from llm_proxy import preflight

    def is_done() -> bool:
        try:
            done: bool = preparation.poll()
        except preflight.StartRefused as exc:
            _log.error("%s", exc)
            raise HaltServer(str(exc), 1) from None
        if done:
            _log.info("the database is prepared")
        return done

    return is_done


def _tell(cfg: Any) -> None:
    """Print the start line and the warnings."""
    from llm_proxy import preflight

    _log.info(
        "llm-proxy %s starts",
        __version__,
        extra={
            "version": __version__,
            "api_env": _settings.server.api_env,
            "driver": _settings.storage.driver,
            "database": _database_shown(),
            "event_bus": _settings.events.bus,
            "cache": _settings.cache.backend if _settings.cache.enabled else "off",
            "encryption": _settings.storage.encryption_key is not None,
            "workers": cfg.workers,
            "parser": interpreter.request_parser(),
            "optimised_python": interpreter.is_optimised(),
            "bind": [_shown(address) for address in cfg.address],
        },
    )
    warnings, notes = preflight.notes(_settings)
    for warning in [*_loaded.warnings, *warnings]:
        _log.warning("%s", warning)
    if _settings.storage.driver == "sqlite" and cfg.workers > 1:
        _log.warning("SQLite serves %s workers of this host; it is no database for several hosts", cfg.workers)
    if cfg.worker_connections == worker_connections and (told := configuration.few_connections(_descriptors)):
        _log.warning("%s", told)
    for note in notes:
        _log.info("%s", note)


def _database_shown() -> str:
    """Host and database, or the file: never a password."""
    from llm_proxy.db.engine import connector_of_settings

    return (
        _settings.storage.path
        if _settings.storage.driver == "sqlite"
        else connector_of_settings(_settings.storage).where
    )


# -- workers ----------------------------------------------------------------------------------------------------------


def pre_fork(server: Any, worker: Any) -> None:
    """Halt a server that has never served when a worker can't start, and no other.

    After an upgrade on disk it runs the new code, which the master has not loaded.
    """
    worker.boot_is_fatal = not server.served
    worker.must_be_fresh = server.code.has_changed()


def child_exit(server: Any, worker: Any) -> None:
    """Add up what a dead worker had counted."""
    from llm_proxy import metrics

    try:
        metrics.fold_dead_worker(os.environ["PROMETHEUS_MULTIPROC_DIR"], worker.pid)
    except Exception:
        _log.exception("The metrics of worker %s are lost", worker.pid)


def pre_exec(server: Any) -> None:
    """SIGUSR2: the next master's workers count, and cache, in the same folders."""
    for name in ("PROMETHEUS_MULTIPROC_DIR", shared_dir.VARIABLE):
        server.cfg.env_orig[name] = os.environ[name]


def on_exit(server: Any) -> None:
    """Leave the folders to the next master, if there is one; this process's end removes them otherwise."""
    if server.reexec_pid != 0:
        shared_dir.hand_on()
    logs.flush()

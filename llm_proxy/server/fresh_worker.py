"""A worker that begins as a fresh interpreter, because the disk holds other code than the master has loaded.

The master forks as ever; the child then executes Python again and takes up what the worker had been given before the
fork: listeners, heartbeat file, and the memory by which it reports. It reads configuration and settings itself.
"""

import contextlib
import json
import mmap
import os
import signal
import sys
from typing import Any

VARIABLE = "LLM_PROXY_FRESH_WORKER"  # between processes of one server, not for operators
_SILENT = (signal.SIGHUP, signal.SIGUSR1)  # would end a process that has no handlers yet


def is_this() -> bool:
    """Return whether this process is such a worker."""
    return VARIABLE in os.environ


def become(worker: Any) -> None:
    """Replace this process, a worker that was just forked. Does not return.

    Raises:
        OSError: The interpreter cannot be executed.
    """
    listeners = [listener.fileno() for listener in worker.sockets]
    heartbeat, report = worker.tmp.fileno(), worker.report_descriptor
    for descriptor in (*listeners, heartbeat, report):
        os.set_inheritable(descriptor, True)
    for number in _SILENT:
        signal.signal(number, signal.SIG_IGN)
    handed = {
        "age": worker.age,
        "timeout": worker.timeout,
        "boot_is_fatal": worker.boot_is_fatal,
        "listeners": listeners,
        "heartbeat": heartbeat,
        "report": report,
    }
    environ = os.environ | {VARIABLE: json.dumps(handed)}
    os.execve(sys.executable, [sys.executable, "-m", __name__, *sys.argv[1:]], environ)  # noqa: S606  (this program)


def main() -> None:
    """Serve as the worker that this process was forked to be; gunicorn's exit codes tell what went wrong."""
    from gunicorn.app.wsgiapp import WSGIApplication
    from gunicorn.arbiter import Arbiter
    from gunicorn.errors import AppImportError

    handed = json.loads(os.environ[VARIABLE])
    app = WSGIApplication("%(prog)s [OPTIONS] [APP_MODULE]", prog="gunicorn")
    del os.environ[VARIABLE]
    worker = _worker(app, handed)
    try:
        worker.init_process()
    except AppImportError as exc:
        print(exc, file=sys.stderr)
        sys.exit(Arbiter.APP_LOAD_ERROR)
    except Exception as exc:
        worker.log.exception("Exception in worker process")
        print(exc, file=sys.stderr)
        sys.exit(-1 if worker.booted else Arbiter.WORKER_BOOT_ERROR)
    finally:
        with contextlib.suppress(OSError):
            worker.tmp.close()
        worker.cfg.worker_exit(None, worker)


def _worker(app: Any, handed: dict[str, Any]) -> Any:
    """Return the worker, with what its process has inherited."""
    from gunicorn import util
    from gunicorn.sock import create_sockets
    from gunicorn.workers.workertmp import WorkerTmp

    from llm_proxy import logs
    from llm_proxy.settings import handed_over

    loaded = handed_over()
    assert loaded is not None
    logs.configure(loaded.settings)
    cfg = app.cfg
    for folder in (cfg.pythonpath or "").split(","):  # gunicorn does so when it runs, and not when it reads
        if folder and os.path.abspath(folder) not in sys.path:
            sys.path.insert(0, os.path.abspath(folder))
    cfg.set("bind", [f"fd://{descriptor}" for descriptor in handed["listeners"]])
    log = cfg.logger_class(cfg)
    worker = cfg.worker_class(handed["age"], os.getppid(), create_sockets(cfg, log), app, handed["timeout"], cfg, log)
    worker.forget()
    worker.tmp = WorkerTmp.__new__(WorkerTmp)
    worker.tmp._tmp = os.fdopen(handed["heartbeat"], "w+b", 0)
    worker.report_descriptor = handed["report"]
    worker.shared = mmap.mmap(handed["report"], mmap.PAGESIZE)
    worker.boot_is_fatal = handed["boot_is_fatal"]
    worker.pid = os.getpid()
    util._setproctitle(f"worker [{cfg.proc_name}]")
    log.info("Booting worker with pid: %s", worker.pid)
    return worker


if __name__ == "__main__":
    main()

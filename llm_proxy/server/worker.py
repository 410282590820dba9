"""The worker process: accepts connections, and leaves in order when told to."""

import contextlib
import faulthandler
import mmap
import os
import signal
import ssl
import sys
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.sock import ssl_context
from gunicorn.workers.base import Worker as BaseWorker
from gunicorn.workers.ggevent import GeventWorker

from llm_proxy.server import fresh_worker
from llm_proxy.server.connection import Connection
from llm_proxy.server.disconnect import DisconnectWatch
from llm_proxy.server.environ import EnvironMaker
from llm_proxy.server.hooks import AppHooks, Refusal
from llm_proxy.server.idle import IdleTimer
from llm_proxy.server.state import ServerState
from llm_proxy.server.usual_head import UsualHeads
from llm_proxy.settings import ServerSettings, handed_over

BOOTING, SERVING, LEAVING = 0, 1, 2  # byte 0 of `shared`: how a worker reports to the master
HEARTBEAT_S = 1.0
SWEEP_S = 0.1  # while leaving: so often idle connections are looked for
FRESH_S = 1.0  # a client that has just connected is about to send
CUT_S = 1.0  # for cut exchanges to settle; the master kills 2 s after a second signal
STOP_S, HASTY_STOP_S = 8.0, 0.6  # for the application to write down everything
BLOCKED = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGUSR2)  # until a new worker can act on them


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """Serves the application with gevent.

    SIGTERM drains; SIGQUIT and SIGINT cut at once; SIGUSR2 retires: finish without a bound, a newer generation serves;
    SIGUSR1 reopens files; SIGHUP is ignored. Repeats of SIGTERM change nothing: service managers signal whole groups.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        loaded = handed_over()
        self.settings = ServerSettings() if loaded is None else loaded.settings.server
        self.report_descriptor = os.memfd_create("llm-proxy-worker")
        os.ftruncate(self.report_descriptor, mmap.PAGESIZE)
        self.shared = mmap.mmap(self.report_descriptor, mmap.PAGESIZE)  # the master sees what the worker writes
        self.must_be_fresh = False
        self.boot_is_fatal = True
        self.state = ServerState(self.cfg.worker_connections, self.cfg.workers)
        self.connections: set[Connection] = set()
        self.hooks = AppHooks()
        self.watch: DisconnectWatch
        self.idle: IdleTimer
        self.takes: Callable[[str, str], bool] = _takes_none
        self._wake: Event
        self._servers: list[StreamServer] = []
        self._pool: Pool
        self._is_drain_asked = self._is_cut_asked = self._is_retire_asked = self._is_orphan = False

    # -- booting --------------------------------------------------------------------------------------------------

    def init_process(self) -> None:
        """Serve; as a fresh interpreter where the code on the disk is no longer the master's."""
        if self.must_be_fresh:
            fresh_worker.become(self)
        super().init_process()

    def forget(self) -> None:
        """Close, in the master, what it shared with this worker."""
        self.tmp.close()
        self.shared.close()
        os.close(self.report_descriptor)

    def init_signals(self) -> None:
        """Handlers only take notes and wake the main greenlet. Signals are unblocked last: now they can be acted on."""
        self._wake = Event()
        self.watch = DisconnectWatch()
        self.idle = IdleTimer(self.settings.keepalive_timeout_s)
        self._pool = Pool(self.worker_connections)
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        handlers: dict[signal.Signals, Any] = {
            signal.SIGTERM: self._on_term,
            signal.SIGQUIT: self._on_quit,
            signal.SIGINT: self._on_quit,
            signal.SIGUSR1: self._on_usr1,
            signal.SIGUSR2: self._on_usr2,
            signal.SIGABRT: self.handle_abort,
            signal.SIGHUP: signal.SIG_IGN,
            signal.SIGWINCH: signal.SIG_IGN,
        }
        for number, handler in handlers.items():
            signal.signal(number, handler)
            signal.siginterrupt(number, False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)

    def load_wsgi(self) -> None:
        """Load the application and tell it that it starts.

        A failure halts the server, by gunicorn's exit codes, only where nothing has been served so far: a worker that
        replaces another must not take the others with it.
        """
        try:
            super().load_wsgi()
            self.hooks = getattr(self.wsgi, "hooks", None) or AppHooks()
            self.hooks.started(self.state)
            self.takes = getattr(self.wsgi, "takes", _takes_none)
        except Exception:
            if self.boot_is_fatal:
                raise
            self.log.exception("The application does not start")
            sys.exit(1)

    # -- signals --------------------------------------------------------------------------------------------------

    def _on_term(self, sig: int, frame: object) -> None:
        if not self._is_drain_asked:
            self._is_drain_asked = True
            self._report_leaving()
            self.state.phase = "draining" if self._is_retire_asked else "grace"
            self._call_soon(self._wake.set)

    def _on_quit(self, sig: int, frame: object) -> None:
        self._is_cut_asked = True
        self._report_leaving()
        self.state.phase = "draining"
        self._call_soon(self._wake.set)

    def _on_usr2(self, sig: int, frame: object) -> None:
        if not (self._is_drain_asked or self._is_cut_asked or self._is_retire_asked):
            self._is_retire_asked = True
            self._report_leaving()
            self.state.phase = "retired"
            self._call_soon(self._wake.set)

    def _report_leaving(self) -> None:
        if self.shared[0] == SERVING:  # one that has never served has nothing to finish
            self.shared[0] = LEAVING

    def _on_usr1(self, sig: int, frame: object) -> None:
        self._call_soon(lambda: gevent.spawn(self._reopen))

    def _call_soon(self, call: Callable[[], object]) -> None:
        gevent.get_hub().loop.run_callback_threadsafe(call)

    def _reopen(self) -> None:
        self.log.reopen_files()
        self._tell("reopen")

    def handle_abort(self, sig: int, frame: object) -> None:
        """Show what blocks the loop, and end: the master misses the heartbeat, and nothing else can run."""
        faulthandler.dump_traceback(file=sys.stderr, all_threads=False)
        self.cfg.worker_abort(self)
        os._exit(1)

    # -- serving --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until told to leave, and leave."""
        self._open()
        self.shared[0] = SERVING
        while not (self._is_drain_asked or self._is_cut_asked or self._is_retire_asked):
            self._wait(HEARTBEAT_S)
        self.shared[0] = LEAVING
        if self._is_retire_asked:
            self._retire()
        was_cut = False
        if self._is_drain_asked or self._is_cut_asked:
            was_cut = self._drain()
        self._close()
        with gevent.Timeout(HASTY_STOP_S if self._is_cut_asked else STOP_S, False):
            self._tell("stopped", cut=was_cut)

    def _open(self) -> None:
        context = ssl_context(self.cfg) if self.cfg.is_ssl else None
        for listener in self.sockets:
            environs = EnvironMaker(self.cfg, listener.getsockname())
            handle = partial(self._handle, context, environs, UsualHeads(self.cfg, has_addresses=environs.is_tcp))
            server = StreamServer(listener, handle=handle, spawn=self._pool)
            if self.cfg.workers > 1:
                server.max_accept = 1  # leave some to the others
            server.start()
            self._servers.append(server)

    def _handle(
        self, context: ssl.SSLContext | None, environs: EnvironMaker, heads: UsualHeads, sock: Any, addr: Any
    ) -> None:
        if context is not None:
            try:
                sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                sock.settimeout(self.settings.request_header_timeout_s)
                sock.do_handshake()
            except OSError as exc:  # plain HTTP, a scanner, a client that trusts other roots, or a timeout
                self.log.debug("TLS handshake failed: %s", exc)
                sock.close()
                return
        connection = Connection(self, sock, addr, environs, heads)
        self.connections.add(connection)
        connection.serve()

    def count(self) -> None:
        """Note a request; after `max_requests` the worker retires, and the master replaces it."""
        self.nr += 1
        if self.nr >= self.max_requests:
            self._on_usr2(0, None)

    def leave(self, connection: Connection) -> None:
        """Let the drain end without this connection."""
        self.connections.discard(connection)
        if self.shared[0] == LEAVING and not self.connections:
            self._wake.set()

    def refused(self, refusal: Refusal) -> None:
        """Tell the application of a request that the application did not see."""
        self._tell("refused", refusal)

    def _tell(self, what: str, *args: object, **kwargs: object) -> None:
        try:
            getattr(self.hooks, what)(*args, **kwargs)
        except Exception:
            self.log.exception("The application's hook %s failed", what)

    def _wait(self, limit_s: float) -> None:
        """Until woken, at most `limit_s`; sends the heartbeat."""
        self.notify()
        self._wake.wait(timeout=min(max(limit_s, 0.0), HEARTBEAT_S))
        self._wake.clear()

    def notify(self) -> None:
        """Send the heartbeat. A master that has died without a word means the same as SIGTERM."""
        BaseWorker.notify(self)
        if self.ppid != os.getppid() and not self._is_drain_asked:
            self.log.warning("The master has gone: worker %s finishes and ends", self.pid)
            self._is_orphan = True
            self._on_term(0, None)

    # -- leaving --------------------------------------------------------------------------------------------------

    def _retire(self) -> None:
        self._close()
        while self.connections and not (self._is_drain_asked or self._is_cut_asked):
            self._sweep(fresh_s=FRESH_S)
            self._wait(SWEEP_S)

    def _drain(self) -> bool:
        """Grace, then the running exchanges' time, then the cut. Returns whether something was cut."""
        self._tell("draining")
        if not self._is_retire_asked and not self._is_orphan:  # the next master needs the address
            self._until(monotonic() + self.settings.shutdown_grace_s, lambda: True)
        self.state.phase = "draining"
        self._close(take_queue=True)
        gevent.sleep(0)  # what was taken from the queue becomes a connection
        self._until(monotonic() + self.settings.drain_timeout_s, self._sweep)
        if not any(not connection.is_idle for connection in self.connections):
            return False
        self._tell("cut")
        self._pool.kill(block=True, timeout=CUT_S)
        return True

    def _until(self, deadline: float, is_needed: Callable[[], bool]) -> None:
        while is_needed() and not self._is_cut_asked and (left := deadline - monotonic()) > 0:
            self._wait(min(left, SWEEP_S))

    def _sweep(self, fresh_s: float = 0.0) -> bool:
        """End the idle connections, but for those made less than `fresh_s` ago; True while others are left."""
        oldest = monotonic() - fresh_s
        for connection in list(self.connections):
            if connection.is_idle and (connection.began is None or connection.began <= oldest):
                connection.shut_idle()
        return bool(self.connections)

    def _close(self, *, take_queue: bool = False) -> None:
        """Close the listeners, after taking what the kernel has accepted already; no other process would serve it."""
        for server in self._servers:
            if take_queue:
                with contextlib.suppress(OSError):
                    while not server.full() and (args := server.do_read()):
                        server.do_handle(*args)
            server.close()
        self._servers = []


def _takes_none(target: str, host: str) -> bool:
    """Answer for an application that reads WSGI's environment of each request."""
    return False

"""Small applications with hooks, for the server layer alone."""

import errno
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import gevent
from greenlet import GreenletExit

import llm_proxy
from llm_proxy.errors import ClientConnectionError, RequestTimeout


class App:
    """Answers by path; writes each call of a hook, a line each, to HOOKS_LOG."""

    def __init__(self) -> None:
        self.hooks = self
        self.state: Any = None
        if os.environ.get("APP_FAULT_FILE") and os.path.exists(os.environ["APP_FAULT_FILE"]):
            raise RuntimeError("told not to start")

    # -- the hooks

    def note(self, *words: Any) -> None:
        if path := os.environ.get("HOOKS_LOG"):
            with open(path, "a") as log:
                log.write(" ".join([str(os.getpid()), *map(str, words)]) + "\n")

    def started(self, state: Any) -> None:
        self.state = state
        self.note("started")
        if os.environ.get("APP_DIES"):
            gevent.spawn_later(0.1, os._exit, 7)
        if (path := os.environ.get("APP_HANG_FILE")) and os.path.exists(path):
            gevent.sleep(60)

    def draining(self) -> None:
        self.note("draining")

    def cut(self) -> None:
        self.note("cut")

    def refused(self, refusal: Any) -> None:
        self.note("refused", refusal.status, refusal.code, refusal.method, refusal.target, refusal.client_addr)

    def stopped(self, *, cut: Any) -> None:
        self.note("stopped", cut)

    def reopen(self) -> None:
        self.note("reopen")

    # -- the application

    def __call__(self, environ: Any, start_response: Any) -> Any:
        name = environ["PATH_INFO"].strip("/").replace("-", "_").split("/")[0] or "root"
        return getattr(self, f"on_{name}", self.on_root)(environ, start_response)

    def plain(self, start_response: Any, body: Any, *fields: Any, status: Any = "200 OK") -> Any:
        start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *fields])
        return [body]

    def on_root(self, environ: Any, start_response: Any) -> Any:
        return self.plain(start_response, b"ok")

    def on_version(self, environ: Any, start_response: Any) -> Any:
        return self.plain(start_response, llm_proxy.__version__.encode())

    def on_ready(self, environ: Any, start_response: Any) -> Any:
        phase = self.state.phase
        status = "200 OK" if phase in ("serving", "retired") else "503 Service Unavailable"
        return self.plain(start_response, f"{os.getpid()} {phase}".encode(), status=status)

    def on_value(self, environ: Any, start_response: Any) -> Any:
        from llm_proxy.settings import handed_over

        loaded = handed_over()
        assert loaded is not None
        return self.plain(start_response, f"{os.getpid()} {loaded.settings.server.api_env}".encode())

    def on_echo(self, environ: Any, start_response: Any) -> Any:
        told = {
            "fields": environ["llm_proxy.fields"],
            "uri": environ["RAW_URI"],
            "path": environ["PATH_INFO"],
            "addr": environ["REMOTE_ADDR"],
            "scheme": environ["wsgi.url_scheme"],
            "phase": environ["llm_proxy.server"].phase,
            "received_ago": time.monotonic() - environ["llm_proxy.received"],
            "body": environ["wsgi.input"].read().decode("latin-1"),
        }
        return self.plain(start_response, json.dumps(told).encode())

    def on_pieces(self, environ: Any, start_response: Any) -> Any:
        """Each piece of the body as read1 gives it, at once."""
        start_response("200 OK", [])
        return self._pieces(environ["wsgi.input"])

    def _pieces(self, body: Any) -> Iterator[Any]:
        while piece := body.read1(65536):
            yield b"[%b]" % piece

    def on_size(self, environ: Any, start_response: Any) -> Any:
        size, body = 0, environ["wsgi.input"]
        try:
            while piece := body.read1(65536):
                size += len(piece)
        except ClientConnectionError as exc:
            self.note("body", type(exc).__name__)
            raise
        return self.plain(start_response, str(size).encode())

    def on_refuse(self, environ: Any, start_response: Any) -> Any:
        return self.plain(start_response, b"too large", status="413 Content Too Large")

    def on_refuse_and_close(self, environ: Any, start_response: Any) -> Any:
        return self.plain(start_response, b"no", ("Connection", "close"), status="401 Unauthorized")

    def on_fields(self, environ: Any, start_response: Any) -> Any:
        start_response(
            "200 OK",
            [
                ("X-Two", "b"),
                ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
                ("server", "theirs"),
                ("Server", "second"),
                ("x-two", "a"),
                ("Content-Length", "2"),
                ("Transfer-Encoding", "chunked"),
                ("Trailer", "x"),
            ],
        )
        return [b"ok"]

    def on_nobody(self, environ: Any, start_response: Any) -> Any:
        start_response("204 No Content", [("Content-Length", "5")])
        return []

    def on_length(self, environ: Any, start_response: Any) -> Any:
        return self.plain(start_response, b"12345")

    def on_head_first(self, environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return self._head_first()

    def _head_first(self) -> Iterator[Any]:
        yield b""
        gevent.sleep(0.5)
        yield b"late"

    def on_stream(self, environ: Any, start_response: Any) -> Any:
        """`/stream/<number>/<seconds>` events."""
        _, _, number, pause = environ["PATH_INFO"].split("/")
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return Stream(self, int(number), float(pause))

    def on_big(self, environ: Any, start_response: Any) -> Any:
        environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Length", str(64 * 1024 * 1024))])
        return Stream(self, 64, 0, b"x" * (1024 * 1024))

    def on_wait(self, environ: Any, start_response: Any) -> Any:
        """Waits until the client is gone, at most 20 s, in silence."""
        gone, client = gevent.event.Event(), environ["llm_proxy.client"]
        environ["wsgi.input"].read()
        client.on_gone(gone.set)
        begin = time.monotonic()
        self.note("waiting")
        was_noticed = gone.wait(20)
        self.note("gone", was_noticed, client.is_gone, f"{time.monotonic() - begin:.3f}")
        return self.plain(start_response, b"done")

    def on_broken(self, environ: Any, start_response: Any) -> Any:
        """`/broken/<framing>/<after|before>/<what>`."""
        _, _, framing, when, what = environ["PATH_INFO"].split("/")
        if when == "before":
            return Broken(self, what, None)
        fields = [("Content-Length", "1000")] if framing == "sized" else []
        start_response("200 OK", fields)
        return Broken(self, what, b"part")

    def on_raises(self, environ: Any, start_response: Any) -> None:
        raise {"value": ValueError, "os": OSError, "stop": StopIteration, "exit": SystemExit, "greenlet": GreenletExit}[
            environ["PATH_INFO"].split("/")[2]
        ]("told to")

    def on_late_timeout(self, environ: Any, start_response: Any) -> None:
        raise RequestTimeout

    def on_nothing(self, environ: Any, start_response: Any) -> Any:
        return []

    def on_die(self, environ: Any, start_response: Any) -> None:
        os._exit(7)

    def on_freeze(self, environ: Any, start_response: Any) -> Any:
        import select

        select.poll  # noqa: B018
        from gevent import monkey

        monkey.get_original("time", "sleep")(30)
        return self.plain(start_response, b"thawed")

    def on_connections(self, environ: Any, start_response: Any) -> Any:
        return self.plain(start_response, f"{self.state.worker_connections} {self.state.workers}".encode())


class Stream:
    def __init__(self, app: Any, number: Any, pause: Any, item: Any = None) -> None:
        self.app, self.number, self.pause, self.item = app, number, pause, item
        self.how = "unfinished"

    def __iter__(self) -> Iterator[Any]:
        try:
            for i in range(self.number):
                yield self.item or b"data: %d\n\n" % i
                gevent.sleep(self.pause)
            self.how = "whole"
        except GreenletExit:
            self.how = "cut"
            raise

    def close(self) -> None:
        self.app.note("stream", self.how)


class Broken:
    def __init__(self, app: Any, what: Any, part: Any) -> None:
        self.app, self.what, self.part = app, what, part

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        if self.part is not None:
            part, self.part = self.part, None
            return part
        match self.what:
            case "value":
                raise ValueError("told to")
            case "os":
                raise OSError(errno.EPIPE, "told to")
            case "exit":
                raise SystemExit(3)
            case "greenlet":
                raise GreenletExit
            case "timeout":
                raise gevent.Timeout(1)
            case "end":
                raise StopIteration
        raise AssertionError(self.what)

    def close(self) -> None:
        self.app.note("closed", self.what)


app = App()

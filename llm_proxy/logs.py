"""Log lines as JSON or text, the access line, and where they go.

Every logger, the proxy's or a library's, ends in one handler; every value passes the redaction layer. In a worker,
lines are queued and written five times a second by one greenlet, in a thread, so that neither a slow disk nor a stopped
reader of standard output holds up a request. Outside a worker each line is written at once.
"""

import contextlib
import logging
import os
import sys
import time
import traceback
from typing import Any, Protocol, TextIO

import orjson

from llm_proxy.redaction import REDACTOR, learn_settings
from llm_proxy.runtime.append_file import AppendFile
from llm_proxy.runtime.clock import rfc3339_ms
from llm_proxy.runtime.line_writer import LineWriter
from llm_proxy.sanitize import wants_colour
from llm_proxy.settings import OperationSettings, Settings

QUEUE_BOUND = 50_000  # lines; beyond it the oldest are dropped and counted in their own line
FILE_MODE = 0o640
FLUSH_S = 0.2
QUEUE_BYTES = 64 * 1024 * 1024  # of lines
_PATH_CHARS, _TRACE_CHARS = 2048, 8192  # of what clients may make long
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_NAMES = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warn"}
_COLOURS = {"debug": "\x1b[2m", "warn": "\x1b[33m", "error": "\x1b[31m"}
_OWN_HANDLERS = ("gunicorn.error", "gunicorn.access", "alembic", "werkzeug", "flask.app")  # they bring some of theirs
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

Fields = dict[str, Any]


class Sink(Protocol):
    """Where finished lines go."""

    def write(self, lines: bytes) -> None:
        """Write whole lines. Raises OSError."""

    def reopen(self) -> None:
        """Release the file and open the one that has the name now (SIGUSR1)."""


class StreamSink:
    """Standard output; a file descriptor, so that no buffer stands between."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor

    def write(self, lines: bytes) -> None:
        """Write all of it, also through a pipe that takes it piecemeal."""
        view = memoryview(lines)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # another process made the shared pipe non-blocking
                time.sleep(0.01)

    def reopen(self) -> None:
        """Nothing to do: a stream has no name."""


class Writer:
    """Lines on their way to the sink: at once, or queued once `start` was called in a worker."""

    def __init__(self, sink: Sink, *, is_json: bool = True, colour: bool = False, is_short: bool = False) -> None:
        self.sink, self.is_json, self._colour, self._is_short = sink, is_json, colour, is_short
        self._dropped = 0
        self._lines = LineWriter(
            self._write, pause_s=FLUSH_S, most_lines=QUEUE_BOUND, most_bytes=QUEUE_BYTES, lost=self._lose
        )

    def line(self, level: str, message: str, fields: Fields) -> None:
        """Put one line together and on its way. `fields` must have passed the redaction. Never raises."""
        head = {"level": level, "ts": rfc3339_ms(time.time_ns()), "msg": message}
        if self.is_json:
            data = orjson.dumps(head | fields, default=str, option=orjson.OPT_APPEND_NEWLINE)
        else:
            data = self._as_text(level, head, fields)
        self._lines.put(data)

    def start(self) -> None:
        """Queue from now on; needs gevent's loop in this process."""
        self._lines.start()

    def stop(self) -> None:
        """Write what is queued, and each line at once from now on."""
        self._lines.stop()

    def flush(self) -> None:
        """Write what is queued, in this thread."""
        self._lines.flush()

    def _write(self, lines: bytes) -> None:
        """Write lines, and how many were lost before. Raises OSError."""
        dropped = self._dropped
        if dropped:
            note = {"level": "warn", "ts": rfc3339_ms(time.time_ns()), "msg": f"{dropped} log lines dropped"}
            lines += orjson.dumps(note, option=orjson.OPT_APPEND_NEWLINE)
        self.sink.write(lines)
        self._dropped -= dropped

    def _lose(self, count: int, error: OSError | None) -> None:
        """Count lines for which there was no room: on the disk, or in the queue while the sink takes none."""
        self._dropped += count

    def _as_text(self, level: str, head: dict[str, str], fields: Fields) -> bytes:
        start, end = (_COLOURS.get(level, ""), "\x1b[0m") if self._colour and level in _COLOURS else ("", "")
        if self._is_short:
            return f"{start}{_short(level, head, fields)}{end}\n".encode("utf-8", "backslashreplace")
        pairs = " ".join(f"{name}={_plain(value)}" for name, value in fields.items() if value is not None)
        text = f"{head['ts']} {start}{level:5}{end} {_escaped(head['msg'])}"
        return (f"{text} {pairs}\n" if pairs else f"{text}\n").encode("utf-8", "backslashreplace")


_SHORT_WITHOUT = frozenset({"component", "caller", "worker", "version"})  # what a person at a terminal knows or can ask


def _short(level: str, head: dict[str, str], fields: Fields) -> str:
    """One line for a person at a terminal; everything else of the record is in the other forms."""
    at = f"{head['ts'][11:19]}Z"
    if fields.get("component") == "access" and "status_code" in fields:
        took = f"{fields['duration_ms']} ms"
        if fields.get("upstream_duration_ms"):
            took += f" (provider {round(fields['upstream_duration_ms'])})"
        error = f" {_plain(fields['error'])}" if fields.get("error") else ""
        return f"{at} {fields.get('method')} {_plain(fields.get('path'))} {fields['status_code']} {took}{error}"
    if level == "info":
        return f"{at} {_escaped(head['msg'])}"
    kept = {name: value for name, value in fields.items() if name not in _SHORT_WITHOUT and value is not None}
    pairs = " ".join(f"{name}={_plain(value)}" for name, value in kept.items())
    word = f"{level} "
    return f"{at} {word}{_escaped(head['msg'])}{' ' if pairs else ''}{pairs}"


def _plain(value: object) -> str:
    text = _escaped(value if isinstance(value, str) else orjson.dumps(value, default=str).decode())
    return f'"{text}"' if not text or " " in text else text


def _escaped(text: str) -> str:
    """Newlines and control characters as Python writes them, so that one record stays one line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _cut_trace(trace: str) -> str:
    """Keep the ends of a long trace: deep recursion writes hundreds of kilobytes, which would roll the log away."""
    if len(trace) <= _TRACE_CHARS:
        return trace
    half = _TRACE_CHARS // 2
    return f"{trace[:half]}\n… {len(trace) - 2 * half} characters left out …\n{trace[-half:]}"


class Handler(logging.Handler):
    """The only handler: from the records of every logger to lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Redact, and hand on. Never raises (a log line must not break what it tells about)."""
        try:
            fields: Fields = {"component": record.name.removeprefix("llm_proxy.")}
            extra = {k: v for k, v in record.__dict__.items() if k not in _STANDARD and not k.startswith("_")}
            fields |= REDACTOR.value(extra)
            fields["caller"] = f"{record.filename}:{record.lineno}"
            if record.exc_info and record.exc_info[0] is not None:
                fields.setdefault("error", record.exc_info[0].__name__)
                fields["stacktrace"] = _cut_trace(REDACTOR.text("".join(traceback.format_exception(*record.exc_info))))
            level = _NAMES.get(record.levelno, "error" if record.levelno > logging.WARNING else "debug")
            _writer.line(level, REDACTOR.text(record.getMessage()), fields)
        except Exception:
            self.handleError(record)


class AccessLog:
    """The access line: one for each request, whichever part responds.

    Args:
        level: LOG_LEVEL's word; lines below it are not made at all.
    """

    def __init__(self, level: str = "info") -> None:
        self.is_info, self.is_debug = LEVELS[level] <= logging.INFO, level == "debug"
        self.is_warn = LEVELS[level] <= logging.WARNING
        self._worker = os.getpid()

    def completed(
        self,
        *,
        status: int,
        method: str | None,
        path: str | None,
        duration_s: float,
        request_id: str,
        client_ip: str | None,
        fields: Fields | None = None,
        is_quiet: bool = False,
        is_warning: bool = False,
    ) -> None:
        """Write the line. `path` has no query; `fields` are added as they are, None left out.

        `is_quiet` is for probes and metrics: their lines appear at debug only. `is_warning` is for what an operator
        should see although the client got a response.
        """
        is_fault, is_warning = status >= 500, is_warning and self.is_warn
        if not (self.is_debug or ((self.is_info or is_fault or is_warning) and not is_quiet)):
            return
        line: Fields = {
            "component": "access",
            "request_id": REDACTOR.text(request_id),
            "client_ip": client_ip,
            "method": method,
            "path": None if path is None else REDACTOR.text(path)[:_PATH_CHARS],
            "status_code": status,
            "duration_ms": round(duration_s * 1000),
            "worker": self._worker,
        }
        if fields is not None:
            line |= fields
            if "correlation_id" in fields:
                line["correlation_id"] = REDACTOR.text(fields["correlation_id"])  # the client's own words, as the other
        if is_fault:
            _writer.line("error", "request completed with server error", line)
        elif is_warning:
            _writer.line("warn", "request completed", line)
        else:
            _writer.line("debug" if is_quiet else "info", "request completed", line)

    def started(self, *, method: str, path: str, client_ip: str | None, user_agent: str | None) -> None:
        """Write the line at a request's begin, at debug only. The caller looks at `is_debug` first."""
        fields = {"method": method, "path": REDACTOR.text(path)[:_PATH_CHARS], "client_ip": client_ip}
        fields["user_agent"] = None if user_agent is None else REDACTOR.text(user_agent)[:_PATH_CHARS]
        _writer.line("debug", "request started", {"component": "access"} | fields)


_writer = Writer(StreamSink(2), is_json=False)  # before `configure`: whatever is said goes to standard error
_handler = Handler()


def configure(settings: Settings, *, stream: TextIO | None = None) -> None:
    """Set up every logger of this process, once or again after a reload.

    Args:
        settings: LOG_* and the secrets to hide.
        stream: Where lines go when LOG_FILE is unset; default standard output. Commands pass standard error.

    Raises:
        OSError: LOG_FILE can't be opened (the caller ends with a line that names it).
    """
    global _writer
    learn_settings(settings)
    out = stream or sys.stdout
    sink: Sink
    if settings.operation.log_file is not None:
        max_bytes = settings.operation.log_max_size_mb * 1024 * 1024
        file = AppendFile(
            settings.operation.log_file, mode=FILE_MODE, max_bytes=max_bytes, backups=settings.operation.log_max_backups
        )
        file.open()
        sink = file
    else:
        sink = StreamSink(_descriptor(out))
    is_terminal = settings.operation.log_file is None and out.isatty()
    _writer.flush()
    _writer = Writer(
        sink,
        is_json=settings.operation.log_format == "json",
        colour=is_terminal and wants_colour(out),
        is_short=is_terminal,
    )
    root = logging.getLogger()
    root.setLevel(LEVELS[settings.operation.log_level])
    root.handlers[:] = [_handler]
    for name in _OWN_HANDLERS:
        adopt(name)
    logging.captureWarnings(True)
    for name in ("urllib3", "asyncio", "sqlalchemy", "alembic.runtime.plugins"):
        logging.getLogger(name).setLevel(max(LEVELS[settings.operation.log_level], logging.WARNING))


def fault(settings: OperationSettings) -> str | None:
    """One line when LOG_FILE could not be written to; the start then stops. Makes nothing."""
    path = settings.log_file
    if path is None:
        return None
    shown = f"LOG_FILE={path}: expected"
    if path.exists():
        return None if path.is_file() and os.access(path, os.W_OK) else f"{shown} a file that can be written"
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    return None if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) else f"{shown} a folder that can be written"


def adopt(name: str) -> None:
    """Take a library's logger away from its own handlers, so that its records pass the redaction like all others."""
    logger = logging.getLogger(name)
    logger.handlers[:] = []
    logger.propagate = True


def _descriptor(stream: TextIO) -> int:
    try:
        return stream.fileno()
    except (OSError, AttributeError, ValueError):  # captured by a test, or closed
        return 1


def start() -> None:
    """In a worker: queue lines, one greenlet writes them."""
    _writer.start()


def stop() -> None:
    """At a worker's end: write what is queued."""
    _writer.stop()


def flush() -> None:
    """Write what is queued now."""
    _writer.flush()


def reopen() -> None:
    """SIGUSR1: another program rotated the file."""
    with contextlib.suppress(OSError):
        _writer.sink.reopen()

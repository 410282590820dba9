"""What the server layer uses of gunicorn's and gevent's insides: a new version that lacks one fails here, by name."""

import inspect
from typing import Any

import gevent.server
import gevent.socket
import gunicorn
import pytest
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http import errors, wsgi
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.message import Request
from gunicorn.http.parser import Parser, RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.base import Worker as BaseWorker
from gunicorn.workers.ggevent import GeventWorker

METHODS = [
    (Arbiter, ["signal", "stop", "reload", "manage_workers", "spawn_worker", "reap_workers", "kill_worker"]),
    (Arbiter, ["wait_for_signals", "halt", "init_signals", "handle_hup", "handle_usr1", "reexec", "murder_workers"]),
    (BaseWorker, ["notify", "init_signals", "load_wsgi", "handle_abort", "init_process", "run"]),
    (GeventWorker, ["notify", "run", "patch"]),
    (Parser, ["__next__", "finish_body"]),
    (SocketUnreader, ["chunk", "read", "unread"]),
    (Body, ["read", "readline", "readlines"]),
    (wsgi.Response, ["start_response", "process_headers", "force_close", "should_close", "is_chunked"]),
    (Request, ["force_close", "should_close", "set_body_reader"]),
    (Logger, ["setup", "reopen_files", "close_on_exec"]),
    (gevent.server.StreamServer, ["do_read", "do_handle", "close", "start"]),
]


@pytest.mark.parametrize(
    ("owner", "name"), [(owner, name) for owner, names in METHODS for name in names], ids=lambda value: str(value)
)
def test_a_method_that_is_overridden_or_called_exists(owner: Any, name: Any) -> None:
    """By that name."""
    assert callable(getattr(owner, name))


SOURCES = [
    (Arbiter.__init__, ["SIG_QUEUE", "START_CTX", "_stats", "worker_age", "reexec_pid"]),
    (Arbiter.setup, ["num_workers", "cfg", "log"]),
    (Arbiter.start, ["on_starting(self)", "init_signals", "LISTENERS"]),
    (Arbiter.stop, ["graceful_timeout", "SIG_QUEUE.get_nowait", "SIGQUIT", "reap_workers"]),
    (Arbiter.spawn_worker, ["pre_fork", "WORKERS[pid]", "init_process", "tmp.close"]),
    (Arbiter.reexec, ["env_orig", "pre_exec"]),
    (BaseWorker.__init__, ["tmp", "sockets", "ppid", "nr", "max_requests"]),
    (BaseWorker.init_process, ["init_signals()", "load_wsgi()", "booted = True"]),
    (Parser.__init__, ["unreader", "mesg"]),
    (SocketUnreader.chunk, ["max_body_chunk", "mxchunk", "sock.recv"]),
    (Body.__init__, ["reader", "buf"]),
    (LengthReader.__init__, ["length", "unreader"]),
    (ChunkedReader.__init__, ["parser", "buf"]),
    (wsgi.Response.__init__, ["_omits_body", "response_length", "sent", "chunked", "must_close", "headers_sent"]),
    (wsgi.create, ["response_class", "_expected_100_continue", "PATH_INFO"]),
    (wsgi.default_environ, ["wsgi.input", "RAW_URI"]),
    (Request.set_body_reader, ["LengthReader(self.unreader, 0)"]),
]


@pytest.mark.parametrize(("function", "words"), SOURCES, ids=[function.__qualname__ for function, _ in SOURCES])
def test_an_attribute_that_is_used_is_still_set_or_read_there(function: Any, words: Any) -> None:
    """Seen in the source: attributes of instances are not on the class."""
    source = inspect.getsource(function)
    assert [word for word in words if word not in source] == []


@pytest.mark.parametrize("name", ["ParseException", "LimitRequestLine", "LimitRequestHeaders", "NoMoreData"])
def test_an_error_of_the_parser_exists(name: Any) -> None:
    """The table of refusals names it."""
    assert issubclass(getattr(errors, name), Exception)


@pytest.mark.parametrize(
    "name",
    [
        "control_socket_disable",
        "forwarder_headers",
        "header_map",
        "limit_request_line",
        "worker_tmp_dir",
        "forwarded_allow_ips",
        "secure_scheme_headers",
        "graceful_timeout",
        "logger_class",
        "ssl_context",
        "wsgi_app",
        "on_starting",
        "pre_fork",
        "child_exit",
        "pre_exec",
        "on_exit",
        "http_protocols",
        "protocol",
        "preload_app",
    ],
)
def test_a_setting_that_is_used_exists(name: Any) -> None:
    """gunicorn ignores names that it does not know."""
    assert name in Config().settings


def test_the_defaults_that_are_relied_on_hold() -> None:
    """Exit codes of a failed start, the parser class, the version."""
    assert (Arbiter.WORKER_BOOT_ERROR, Arbiter.APP_LOAD_ERROR) == (3, 4)
    assert RequestParser.mesg_class is Request
    assert gunicorn.version_info[0] == 27


def test_a_gevent_socket_has_the_plain_one_inside() -> None:
    """Half-closing goes past gevent, which would break waits with an error."""
    with gevent.socket.socket() as sock:
        assert callable(sock._sock.shutdown)

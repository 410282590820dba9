"""The dispatcher as its own process, and events for it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.processes import free_port
from support.redis import RedisServer

from llm_proxy.events.event import Event
from llm_proxy.runtime.clock import at_epoch


def until(check: Callable[[], Any], limit_s: float = 30.0, why: Callable[[], str] = lambda: "") -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + limit_s
    while not check():
        assert time.monotonic() < deadline, f"the condition did not come true. {why()}"
        time.sleep(0.03)


def make_event(n: int, *, project: str = "p", body_bytes: int = 0, **more: Any) -> Event:
    """A chat exchange whose event id is made from its number."""
    response = {
        "id": f"chatcmpl-{n}",
        "object": "chat.completion",
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": f"answer {n}"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }
    request = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": f"question {n}" + "x" * body_bytes}],
        "temperature": 0.5,
    }
    facts: dict[str, Any] = {
        "request_id": f"request-{n}",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "duration_ns": 250_000_000,
        "response_headers": {"Content-Type": ["application/json"]},
        "request_body": json.dumps(request).encode(),
        "response_body": json.dumps(response).encode(),
        "event_id": str(event_uuid(n)),
        "started_at": at_epoch(1_760_000_000 + n / 1000),
        "project_id": project,
        "token_id": "t",
        "provider": "openai",
        "outcome": "ok",
        "request_content_type": "application/json",
        "time_to_first_byte_ns": 100_000_000,
    }
    return Event(**{**facts, **more})


def event_uuid(n: int) -> uuid.UUID:
    """The id of event `n`."""
    return uuid.UUID(int=0x0199_0000_0000_7000_8000_0000_0000_0000 + n)


class Dispatcher:
    """One process under test."""

    def __init__(self, folder: Path, variables: dict[str, str], arguments: tuple[str, ...] = ()) -> None:
        self.log = folder / f"dispatcher-{uuid.uuid4().hex[:6]}.log"
        self.health = f"http://{variables['DISPATCHER_HEALTH_ADDR']}"
        own = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llm_proxy.dispatcher", *arguments],
                env={**own, "TMPDIR": str(folder), **variables},
                cwd=folder,
                stdout=log,
                stderr=log,
            )

    def get(self, path: str) -> tuple[int, str]:
        """Ask the health port; status 0 while it does not listen."""
        try:
            with urllib.request.urlopen(self.health + path, timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()
        except OSError:
            return 0, ""

    def report(self) -> dict[str, Any]:
        """The body of /health."""
        found: dict[str, Any] = json.loads(self.get("/health")[1] or "{}")
        return found

    def text(self) -> str:
        """What it logged."""
        return self.log.read_text()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self, limit_s: float = 30.0) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not stop: {self.text()}") from None


def variables(redis: RedisServer, service: str, endpoint: str, **more: str) -> dict[str, str]:
    """What a quick dispatcher needs."""
    return {
        "LLM_PROXY_EVENT_BUS": "redis-streams",
        "REDIS_ADDR": redis.addr,
        "REDIS_STREAM_CLAIM_TIME": "1s",
        "DISPATCHER_SERVICE": service,
        "DISPATCHER_ENDPOINT": endpoint,
        "LLM_PROXY_API_KEY": "key-of-the-service-0123456789",
        "DISPATCHER_FLUSH_INTERVAL": "50ms",
        "DISPATCHER_RETRY_BACKOFF": "20ms",
        "DISPATCHER_HEALTH_ADDR": f"127.0.0.1:{free_port()}",
        **more,
    }


@contextmanager
def dispatching(folder: Path, found: dict[str, str], *arguments: str) -> Iterator[Dispatcher]:
    """A running dispatcher for the length of a `with`."""
    started = Dispatcher(folder, found, arguments)
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()

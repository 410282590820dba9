"""Strict stand-ins for the services that a dispatcher delivers to: they check what the vendors' schemas ask for.

Built from the vendors' published API documents: what the real service would refuse is refused here, in its words' class
of status, and written down as a violation.
"""

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "key-of-the-service-0123456789"

Fault = Callable[[int, bytes], "int | float | tuple[int, dict[str, str]] | None"]


class Service:
    """One fake. `accepted` counts each event by its id, `events` keeps them in order of arrival.

    `fault` is asked before a call is looked at: a status (with header fields, perhaps) answers at once, a float hangs
    for so many seconds, None goes on.
    """

    path = "/"

    def __init__(self) -> None:
        self.accepted: Counter[str] = Counter()
        self.events: list[Any] = []
        self.violations: list[str] = []
        self.calls = 0
        self.user_agents: set[str] = set()
        self.fault: Fault = lambda call, body: None
        self.lock = threading.Lock()
        self.server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """The endpoint."""
        assert self.server is not None
        return f"http://127.0.0.1:{self.server.server_address[1]}{self.path}"

    def take(self, headers: Any, body: bytes) -> tuple[int, bytes]:
        """Check a call and keep what is in it."""
        raise NotImplementedError

    def refuse(self, why: str, status: int = 400) -> tuple[int, bytes]:
        """Answer as the service would to what its schema forbids."""
        self.violations.append(why)
        return status, json.dumps({"error": why}).encode()

    def respond(self, headers: Any, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """One call, faults first."""
        if len(body) < int(headers.get("Content-Length") or 0):
            return 400, {}, b"{}"  # its sender was killed while it wrote: no call that the schema judges
        with self.lock:
            self.calls += 1
            call = self.calls
            self.user_agents.add(headers.get("User-Agent", ""))
        fault = self.fault(call, body)
        if isinstance(fault, float):
            time.sleep(fault)
        elif isinstance(fault, int):
            return fault, {}, b"{}"
        elif fault is not None:
            return fault[0], fault[1], b"{}"
        if path != self.path:
            return 404, {}, b"{}"
        with self.lock:
            status, response = self.take(headers, body)
        return status, {}, response


class Lunary(Service):
    """`POST /v1/runs/ingest`."""

    path = "/v1/runs/ingest"
    TYPES = ("llm", "embed", "chain", "agent", "tool", "log", "chat", "convo", "message", "thread")

    def take(self, headers: Any, body: bytes) -> tuple[int, bytes]:
        """`{"events": […]}`; a start before its end or error, tokens as integers, flat metadata."""
        if headers.get("Authorization") != f"Bearer {KEY}":
            return 401, b'{"error":"unknown project"}'
        try:
            found = json.loads(body)
        except ValueError:
            return self.refuse("not JSON")
        if not isinstance(found, dict) or not isinstance(found.get("events"), list):
            return self.refuse("the body is no object with events")
        results, started = [], set[str]()
        for event in found["events"]:
            fault = self._fault_of(event, started)
            if fault:
                return self.refuse(fault)
            if event["event"] == "start":
                started.add(event["runId"])
            self.events.append(event)
            if event["event"] != "start":
                is_new = not self.accepted[event["runId"]]
                self.accepted[event["runId"]] += 1
                result = {"id": event["runId"], "success": is_new}
                results.append(result if is_new else {**result, "error": "Run already exists"})
        return 200, json.dumps({"results": results}).encode()

    def _fault_of(self, event: Any, started: set[str]) -> str:
        if not isinstance(event, dict) or event.get("type") not in self.TYPES:
            return "type is unknown"
        if event.get("event") not in ("start", "end", "error") or not isinstance(event.get("runId"), str):
            return "event or runId is wrong"
        try:
            datetime.fromisoformat(event["timestamp"])
        except (KeyError, ValueError):
            return "timestamp is no ISO 8601"
        if event["event"] != "start" and event["runId"] not in started:
            return "an end without its start"
        if event["event"] == "error" and not isinstance(event.get("error", {}).get("message"), str):
            return "an error without a message"
        usage = event.get("tokensUsage")
        if usage is not None and not all(isinstance(usage.get(name), int) for name in ("prompt", "completion")):
            return "tokensUsage is wrong"
        for value in event.get("metadata", {}).values():
            if not isinstance(value, str | int | float | bool | list):
                return "metadata is not flat"
        names = [name.replace("_", "").lower() for name in event.get("metadata", {})]
        return "metadata's keys collide" if len(names) != len(set(names)) else ""


class Helicone(Service):
    """`POST /custom/v1/log`."""

    path = "/custom/v1/log"
    MOST_BYTES = 10 * 1024 * 1024

    def take(self, headers: Any, body: bytes) -> tuple[int, bytes]:
        """AsyncLog: every part is there with its type, and time does not run backwards."""
        if headers.get("Authorization") != f"Bearer {KEY}":
            return 401, b"{}"
        if len(body) > self.MOST_BYTES:
            return self.refuse("too large")
        try:
            log = json.loads(body)
            fault = self._fault_of(log)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            fault = f"malformed: {exc!r}"
        if fault:
            return self.refuse(fault)
        self.events.append(log)
        self.accepted[log["providerRequest"]["meta"]["Helicone-Request-Id"]] += 1
        return 200, b"{}"

    def _fault_of(self, log: Any) -> str:
        request, response, timing = log["providerRequest"], log["providerResponse"], log["timing"]
        if not isinstance(request["url"], str) or not isinstance(request["json"], dict):
            return "providerRequest is wrong"
        if not isinstance(response["status"], int) or not isinstance(response["json"], dict):
            return "providerResponse is wrong"
        for texts in (request["meta"], response["headers"]):
            if not all(isinstance(value, str) for value in texts.values()):
                return "meta or headers hold something else than texts"
        uuid.UUID(request["meta"]["Helicone-Request-Id"])
        if not response["json"] and not response.get("note"):
            return "no json and no note"
        instants = []
        for name in ("startTime", "endTime"):
            seconds, milliseconds = timing[name]["seconds"], timing[name]["milliseconds"]
            if not isinstance(seconds, int) or not 0 <= milliseconds <= 999:
                return "timing is wrong"
            instants.append(seconds * 1000 + milliseconds)
        return "it ends before it starts" if instants[1] < instants[0] else ""


class Collector(Service):
    """`POST /v1/traces` of an OTLP collector, in protobuf."""

    path = "/v1/traces"

    def take(self, headers: Any, body: bytes) -> tuple[int, bytes]:
        """A request that parses, with spans that the specification calls valid."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
            ExportTraceServiceResponse,
        )

        if headers.get("Content-Type") != "application/x-protobuf":
            return self.refuse("the content type is wrong", 415)
        request = ExportTraceServiceRequest()
        try:
            request.ParseFromString(body)
        except Exception as exc:  # protobuf's own class differs between its implementations
            return self.refuse(f"no protobuf: {exc!r}")
        for resource_spans in request.resource_spans:
            names = {attribute.key for attribute in resource_spans.resource.attributes}
            if "service.name" not in names:
                return self.refuse("a resource without service.name")
            for scope_spans in resource_spans.scope_spans:
                for span in scope_spans.spans:
                    if not _is_valid(span):
                        return self.refuse("an invalid span")
                    self.events.append(span)
                    self.accepted[str(uuid.UUID(bytes=span.trace_id))] += 1
        return 200, ExportTraceServiceResponse().SerializeToString()


def _is_valid(span: Any) -> bool:
    has_ids = len(span.trace_id) == 16 and any(span.trace_id) and len(span.span_id) == 8 and any(span.span_id)
    names = {attribute.key for attribute in span.attributes}
    return (
        has_ids
        and bool(span.name)
        and 0 < span.start_time_unix_nano <= span.end_time_unix_nano
        and {"gen_ai.operation.name", "gen_ai.provider.name"} <= names
    )


SERVICES: dict[str, type[Service]] = {"lunary": Lunary, "helicone": Helicone, "otlp": Collector}


@contextmanager
def running(kind: str) -> Iterator[Service]:
    """A fake that listens, for the length of a `with`."""
    service = SERVICES[kind]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, fields, response = service.respond(self.headers, self.path, body)
            try:
                self.send_response(status)
                for name, value in fields.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(response)))
                self.end_headers()
                self.wfile.write(response)
            except OSError:
                self.close_connection = True  # the dispatcher gave up waiting, or was killed

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: Any) -> None:
            pass  # connections of a killed dispatcher

    service.server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=service.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.server.shutdown()
        service.server.server_close()
        thread.join()

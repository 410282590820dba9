"""One contract for the four back ends, against strict stand-ins; and what each vendor's schema asks for."""

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.dispatcher import event_uuid, make_event
from support.services import KEY, Service, running

from llm_proxy.dispatcher.backends import UnknownBackend, backend_class, names
from llm_proxy.dispatcher.backends.base import Backend, BackendConfig, BackendError, Verdict
from llm_proxy.dispatcher.backends.file import BACKUPS, FileBackend
from llm_proxy.dispatcher.backends.helicone import MOST_BYTES, body_of
from llm_proxy.dispatcher.payload import Payload
from llm_proxy.dispatcher.transform import Transformer
from llm_proxy.events.bus import Entry

HTTP = ["lunary", "helicone", "otlp"]


def payloads(*numbers: int, **more: Any) -> list[Payload]:
    """Payloads of usual exchanges."""
    made = Transformer(key="k")
    return [made.payload(make_event(n, **more), Entry(str(n), None)) for n in numbers]


class World:
    """One back end and what it delivers to."""

    def __init__(self, kind: str, service: Service | None, path: Path) -> None:
        self.kind, self.service, self.path = kind, service, path
        self.backend = self.make()

    def make(self, **more: Any) -> Backend:
        """The back end with a configuration."""
        endpoint = self.service.url if self.service is not None else str(self.path)
        config: dict[str, Any] = {"endpoint": endpoint, "api_key": KEY, "timeout_s": 5.0} | more
        return backend_class(self.kind)(BackendConfig(**config))

    def ids(self) -> list[str]:
        """Ids of what arrived, in order."""
        if self.service is None:
            return [json.loads(line)["runId"] for line in self.path.read_text().splitlines()]
        return list(self.service.accepted)


@pytest.fixture(params=["file", *HTTP])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """All four in turn."""
    if request.param == "file":
        made = World("file", None, tmp_path / "out" / "events.jsonl")
        yield made
        made.backend.close()
        return
    with running(request.param) as service:
        made = World(request.param, service, tmp_path)
        yield made
        made.backend.close()
        assert service.violations == []


@pytest.fixture(params=HTTP)
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Those that call a service."""
    with running(request.param) as service:
        made = World(request.param, service, tmp_path)
        yield made
        made.backend.close()


def verdicts(world: World, found: list[Payload]) -> set[Verdict]:
    """What a send says."""
    results = world.backend.send(found)
    assert len(results) == len(found)
    return {result.verdict for result in results}


def test_the_registry_knows_them_by_name() -> None:
    """Four entry points; an unknown name lists them."""
    assert names() == ["file", "helicone", "lunary", "otlp"]
    with pytest.raises(UnknownBackend, match="expected one of file, helicone, lunary, otlp"):
        backend_class("loki")


def test_a_batch_arrives_whole_with_its_ids(world: World) -> None:
    """Every payload, each once, under the event's id."""
    assert verdicts(world, payloads(*range(50))) == {Verdict.DELIVERED}
    assert sorted(world.ids()) == [str(event_uuid(n)) for n in range(50)]


def test_no_payloads_make_no_call(world: World) -> None:
    """An empty batch costs nothing."""
    assert world.backend.send([]) == []
    assert world.service is None or world.service.calls == 0


def test_a_redelivery_can_be_recognised(world: World) -> None:
    """The same id again, and the back end takes it."""
    verdicts(world, payloads(1))
    assert verdicts(world, payloads(1)) == {Verdict.DELIVERED}
    assert set(world.ids()) == {str(event_uuid(1))}


def test_odd_exchanges_are_taken_too(world: World) -> None:
    """Errors, aborts, empty and binary responses, other shapes of JSON."""
    odd = [
        *payloads(1, status=502, outcome="connect_error", response_body=None, response_headers={}),
        *payloads(2, outcome="client_disconnect", status=499, response_body=b""),
        *payloads(3, response_body=b"[1,2]"),
        *payloads(4, response_body=b"plain", response_headers={"Content-Type": ["text/plain"]}),
        *payloads(5, response_body=b"\xff\x00", response_headers={"Content-Type": ["audio/mpeg"]}),
        *payloads(6, request_body=None, path="", duration_ns=0),
        *payloads(7, request_body=b'["a"]', project_id=None, token_id=None, provider=None),
        *payloads(8, event_id="no-uuid", path="/v1/embeddings"),
    ]
    assert verdicts(world, odd) == {Verdict.DELIVERED}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (503, Verdict.TRANSIENT),
        (429, Verdict.TRANSIENT),
        (400, Verdict.PERMANENT),
        (413, Verdict.PERMANENT),
        (401, Verdict.CONFIGURATION),
        (302, Verdict.CONFIGURATION),
        (307, Verdict.CONFIGURATION),
    ],
)
def test_statuses_are_classed(remote: World, status: int, expected: Verdict) -> None:
    """The same for every service; nothing is retried in secret."""
    assert remote.service is not None
    remote.service.fault = lambda call, body: (status, {"Retry-After": "7", "Location": remote.service.url})  # type: ignore[union-attr]
    results = remote.backend.send(payloads(1))
    assert results[0].verdict is expected
    assert results[0].retry_after_s == (7.0 if expected is Verdict.TRANSIENT else None)
    assert remote.service.calls == 1


@pytest.mark.times
def test_a_service_that_hangs_is_given_up_in_time(remote: World) -> None:
    """The total limit, not one between two bytes."""
    assert remote.service is not None
    remote.service.fault = lambda call, body: 3.0
    backend = remote.make(timeout_s=0.3)
    began = time.monotonic()
    assert backend.send(payloads(1))[0].verdict is Verdict.TRANSIENT
    assert time.monotonic() - began < 2.0


def test_a_service_that_is_not_there_is_transient(remote: World) -> None:
    """Refused connections."""
    backend = remote.make(endpoint="http://127.0.0.1:9/")
    assert backend.send(payloads(1))[0].verdict is Verdict.TRANSIENT


def test_who_calls_is_said(remote: World) -> None:
    """User-Agent."""
    assert remote.service is not None
    remote.backend.send(payloads(1))
    assert {agent.partition("/")[0] for agent in remote.service.user_agents} == {"llm-proxy-dispatcher"}


def test_a_netrc_entry_does_not_replace_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: World) -> None:
    """requests would put it in the place of our field."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert verdicts(remote, payloads(1)) == {Verdict.DELIVERED}


# -- lunary ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def lunary(tmp_path: Path) -> Iterator[World]:
    """Lunary alone."""
    with running("lunary") as service:
        yield World("lunary", service, tmp_path)


def test_a_lunary_run_is_a_start_and_an_end(lunary: World) -> None:
    """Messages in, message out, the provider's tokens, start before end by a millisecond at least."""
    assert lunary.service is not None
    lunary.backend.send(payloads(1, duration_ns=0))
    start, end = lunary.service.events
    assert (start["event"], end["event"]) == ("start", "end")
    assert start["input"] == [{"role": "user", "content": "question 1"}]
    assert end["output"] == {"role": "assistant", "content": "answer 1"}
    assert end["tokensUsage"] == {"prompt": 7, "completion": 3}
    assert start["timestamp"] < end["timestamp"]


def test_a_failed_run_ends_in_an_error(lunary: World) -> None:
    """With the provider's message."""
    assert lunary.service is not None
    lunary.backend.send(payloads(1, status=429, response_body=b'{"error":{"message":"slow down"}}'))
    assert lunary.service.events[1]["event"] == "error"
    assert lunary.service.events[1]["error"] == {"message": "slow down"}


def test_a_bare_array_would_fail(lunary: World) -> None:
    """The stand-in is strict: this is what the reference sent."""
    assert lunary.service is not None
    status, _ = lunary.service.take({"Authorization": f"Bearer {KEY}"}, b'[{"type":"llm"}]')
    assert status == 400


def test_single_runs_can_be_refused(lunary: World) -> None:
    """`success: false` for one: the others are delivered."""
    assert lunary.service is not None
    real = lunary.service.take

    def take(headers: Any, body: bytes) -> tuple[int, bytes]:
        status, response = real(headers, body)
        results = json.loads(response)["results"]
        results[1] |= {"success": False, "error": "boom"}
        return status, json.dumps({"results": results}).encode()

    lunary.service.take = take  # type: ignore[method-assign]
    found = [result.verdict for result in lunary.backend.send(payloads(1, 2, 3))]
    assert found == [Verdict.DELIVERED, Verdict.TRANSIENT, Verdict.DELIVERED]


def test_large_batches_are_several_calls(lunary: World) -> None:
    """At most a batch and 4 MiB each; after a failure the rest waits its turn."""
    assert lunary.service is not None
    backend = lunary.make(batch_size=10)
    assert {result.verdict for result in backend.send(payloads(*range(25)))} == {Verdict.DELIVERED}
    assert lunary.service.calls == 3
    lunary.service.fault = lambda call, body: 503 if call == 5 else None
    found = backend.send(payloads(*range(100, 130)))
    assert [result.verdict for result in found] == [Verdict.DELIVERED] * 10 + [Verdict.TRANSIENT] * 20
    assert [result.is_tried for result in found[10:]] == [True] * 10 + [False] * 10
    lunary.service.fault = lambda call, body: None
    before = lunary.service.calls
    lunary.backend.send(payloads(*range(6), request_body=json.dumps({"messages": "x" * 1_500_000}).encode()))
    assert lunary.service.calls - before == 3


# -- helicone --------------------------------------------------------------------------------------------------------


@pytest.fixture
def helicone(tmp_path: Path) -> Iterator[World]:
    """Helicone alone."""
    with running("helicone") as service:
        yield World("helicone", service, tmp_path)


@pytest.mark.parametrize(
    ("reported", "shown"),
    [
        ("", {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}),
        (
            ',"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":9}',
            {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9},
        ),
        (',"usage":{"input_tokens":4,"output_tokens":5}', {"input_tokens": 4, "output_tokens": 5}),
    ],
    ids=["none", "reasoning beside", "another spelling"],
)
def test_a_helicone_log_has_true_times_and_texts(helicone: World, reported: str, shown: dict[str, int]) -> None:
    """Latency is the exchange's duration; meta is texts; usage is as it was counted; the id is the event's."""
    assert helicone.service is not None
    response = b'{"choices":[{"message":{"content":"hi"}}]' + reported.encode() + b"}"
    helicone.backend.send(payloads(1, response_body=response, usage={"prompt_tokens": 4, "completion_tokens": 5}))
    (log,) = helicone.service.events
    start, end = log["timing"]["startTime"], log["timing"]["endTime"]
    assert (end["seconds"] - start["seconds"]) * 1000 + end["milliseconds"] - start["milliseconds"] == 250
    assert log["timing"]["timeToFirstToken"] == 100
    assert log["providerResponse"]["json"]["usage"] == shown
    meta = log["providerRequest"]["meta"]
    assert meta["Helicone-Request-Id"] == str(event_uuid(1))
    assert (meta["Helicone-Provider"], meta["status"], meta["duration_ms"]) == ("openai", "200", "250")
    assert (meta["Helicone-Property-Project"], meta["Helicone-Property-Outcome"]) == ("p", "ok")


def test_a_response_of_200_with_an_error_is_no_success(helicone: World) -> None:
    """Its store failed."""
    assert helicone.service is not None
    helicone.service.take = lambda headers, body: (200, b'{"error":"store"}')  # type: ignore[method-assign]
    assert helicone.backend.send(payloads(1))[0].verdict is Verdict.TRANSIENT


def test_a_dead_service_is_not_asked_for_every_event(helicone: World) -> None:
    """Two rounds in a row, then the rest is left for later."""
    assert helicone.service is not None
    helicone.service.fault = lambda call, body: 503
    found = helicone.backend.send(payloads(*range(100)))
    assert {result.verdict for result in found} == {Verdict.TRANSIENT}
    assert helicone.service.calls <= 12
    assert sum(result.is_tried for result in found) == helicone.service.calls


def test_posts_go_side_by_side(helicone: World) -> None:
    """Four at a time."""
    assert helicone.service is not None
    helicone.service.fault = lambda call, body: 0.1
    assert verdicts(helicone, payloads(1, 2)) == {Verdict.DELIVERED}


def test_what_the_service_would_refuse_for_its_size_is_cut() -> None:
    """Below 10 MiB, marked."""
    (big,) = payloads(1)
    big.output = {"text": "x" * (12 * 1024 * 1024)}
    body = body_of(big)
    assert len(body) < MOST_BYTES
    assert json.loads(body)["providerResponse"]["note"]


# -- otlp ------------------------------------------------------------------------------------------------------------


def test_a_span_tells_model_tokens_and_failure(tmp_path: Path) -> None:
    """Names of the semantic conventions; an id that is the event's."""
    with running("otlp") as service:
        World("otlp", service, tmp_path).backend.send([*payloads(1), *payloads(2, status=503)])
    good, bad = service.events
    attributes = {item.key: item.value for item in good.attributes}
    assert good.name == "chat gpt-4o-mini"
    assert attributes["gen_ai.usage.input_tokens"].int_value == 7
    assert attributes["gen_ai.response.finish_reasons"].array_value.values[0].string_value == "stop"
    assert good.end_time_unix_nano - good.start_time_unix_nano == 250_000_000
    assert bad.status.code == 2
    assert good.trace_id == event_uuid(1).bytes


# -- file ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def make_file(tmp_path: Path) -> Iterator[Callable[..., FileBackend]]:
    """File back ends that are closed afterwards."""
    made: list[FileBackend] = []

    def make(path: Path = tmp_path / "events.jsonl", **more: Any) -> FileBackend:
        made.append(FileBackend(BackendConfig(endpoint=str(path), **more)))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def test_a_line_is_the_documented_object(make_file: Callable[..., FileBackend], tmp_path: Path) -> None:
    """One line an exchange, `start` and `output` in it, private to the user."""
    make_file().send(payloads(1))
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert (found["event"], found["output"]["id"]) == ("start", "chatcmpl-1")
    assert found["endTimestamp"] > found["timestamp"]
    assert stat.S_IMODE((tmp_path / "events.jsonl").stat().st_mode) == 0o600


def test_an_incomplete_last_line_is_ended(make_file: Callable[..., FileBackend], tmp_path: Path) -> None:
    """A crash left half a line: what follows starts on its own one."""
    (tmp_path / "events.jsonl").write_bytes(b'{"a":1}\n{"half')
    make_file().send(payloads(1))
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert lines[1] == '{"half'
    assert json.loads(lines[2])["runId"] == str(event_uuid(1))


def test_a_short_write_leaves_nothing(
    make_file: Callable[..., FileBackend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: the batch is cut off again and stays to be retried."""
    backend = make_file()
    backend.send(payloads(1))
    before = (tmp_path / "events.jsonl").read_bytes()
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 100:
            return real(descriptor, data[:50])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda d, b: full(d, b) if len(b) > 100 else full(d, b""))
        results = backend.send(payloads(2, 3))
    assert {result.verdict for result in results} == {Verdict.TRANSIENT}
    assert (tmp_path / "events.jsonl").read_bytes() == before
    backend.send(payloads(2, 3))
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 3


def test_the_file_is_followed_when_it_is_moved(make_file: Callable[..., FileBackend], tmp_path: Path) -> None:
    """logrotate without a signal, and with one."""
    backend = make_file()
    backend.send(payloads(1))
    os.rename(tmp_path / "events.jsonl", tmp_path / "old")
    backend.send(payloads(2))
    backend.reopen()
    backend.send(payloads(3))
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 2


def test_it_rotates_at_a_size(make_file: Callable[..., FileBackend], tmp_path: Path) -> None:
    """name.1 is the newest, five are kept, none is larger than the bound."""
    backend = make_file(file_max_bytes=5000)
    for n in range(60):
        backend.send(payloads(n))
    kept = sorted(path.name for path in tmp_path.glob("events.jsonl.?"))
    assert kept == [f"events.jsonl.{n}" for n in range(1, BACKUPS + 1)]
    assert all(path.stat().st_size <= 5000 for path in tmp_path.glob("events.jsonl*"))
    last = json.loads((tmp_path / "events.jsonl.1").read_text().splitlines()[-1])["metadata"]["request_id"]
    first = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[0])["metadata"]["request_id"]
    assert int(first.removeprefix("request-")) == int(last.removeprefix("request-")) + 1


def test_one_file_has_one_dispatcher(make_file: Callable[..., FileBackend]) -> None:
    """A second one is refused, until the first has gone."""
    first = make_file()
    with pytest.raises(BackendError, match="another dispatcher"):
        make_file()
    first.close()
    make_file()


def test_a_path_that_cannot_be_written_is_refused(make_file: Callable[..., FileBackend], tmp_path: Path) -> None:
    """At the start, naming it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match="file/x"):
        make_file(tmp_path / "file" / "x")
    with pytest.raises(BackendError):
        make_file(tmp_path)


def test_a_batch_is_on_the_disk_before_it_counts(
    make_file: Callable[..., FileBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync that fails is a failure."""
    backend = make_file()

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    assert {result.verdict for result in backend.send(payloads(1))} == {Verdict.TRANSIENT}

"""Turns over a WebSocket are relayed, charged, metered, logged and refused one by one."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.gateway import PROVIDER_KEY, Gateway, Token, eventually
from support.provider import Provider
from support.sockets import REALTIME, close_of, create, opened, rest_of_turn, turn
from websockets.exceptions import ConnectionClosed, InvalidStatus


def test_three_turns_are_three_requests(gateway: Gateway, provider: Provider, token: Token) -> None:
    """Each turn costs a unit, has its own access line and is metered; the socket has one line."""
    with opened(gateway, token) as socket:
        for number in range(3):
            messages = turn(socket, simulate={"words": 3}, note=number)
            assert [message["type"] for message in messages][:2] == ["response.created", "response.output_text.delta"]
            assert messages[-1]["response"]["usage"]["output_tokens"] == 3
        assert gateway.request_count(token) == 3
    seen = provider.seen()[-1]
    assert seen.authorization == f"Bearer {PROVIDER_KEY}"
    assert seen.values("sec-websocket-extensions") == []
    lines = gateway.wait_for_access(1, token_id=token.id, kind="websocket")
    assert [(line["status_code"], line["close_code"], line["turns"]) for line in lines] == [(101, 1000, 3)]
    turns = gateway.access_lines(token_id=token.id, kind="turn")
    assert [(line["status_code"], line["row"], line["turn"]) for line in turns] == [(200, 1, n) for n in (1, 2, 3)]
    assert {line["correlation_id"] for line in turns} == {lines[0]["request_id"]}
    columns = "SELECT model, sum(requests), sum(prompt_tokens), sum(completion_tokens)"
    usage = f"{columns} FROM usage_daily WHERE token_id = ? GROUP BY model"
    eventually(
        lambda: gateway.rows(usage, (token.id,)) == [("gpt-4o", 3, 21, 9)],
        10,
        lambda: str(gateway.rows(usage, (token.id,))),
    )


def test_a_turn_is_an_event(gateway: Gateway, token: Token) -> None:
    """The event of a turn holds the client's message and the response that the messages amount to."""
    with opened(gateway, token) as socket:
        turn(socket, note="of the event")

    def events() -> list[dict[str, Any]]:
        path = gateway.folder / "events.jsonl"
        text = path.read_text() if path.exists() else ""
        found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [event for event in found if event.get("token_id") == token.id]

    eventually(lambda: len(events()) == 1, 10, lambda: str(events()))
    text = json.dumps(events())
    assert "of the event" in text
    assert token.bearer not in text


def test_a_refused_turn_is_told_and_the_socket_lives(gateway: Gateway, provider: Provider) -> None:
    """Past the quota a turn is answered by an error in the API's form; no byte of it reaches the provider."""
    token = gateway.token(max_requests=2)
    with opened(gateway, token) as socket:
        assert turn(socket)[-1]["type"] == "response.completed"
        assert turn(socket)[-1]["type"] == "response.completed"
        for _ in range(2):
            (refused,) = turn(socket)
            assert (refused["status"], refused["error"]["code"]) == (429, "rate_limit_exceeded")
        assert len(provider.websockets()[-1]["turns"]) == 2
    assert gateway.request_count(token) == 2
    with pytest.raises(InvalidStatus) as refusal, opened(gateway, token):
        pass
    assert refusal.value.response.status_code == 429


def test_64_turns_on_8_sockets_spend_5_units(gateway: Gateway, provider: Provider) -> None:
    """However many sockets race for them, exactly max_requests turns reach the provider."""
    token = gateway.token(max_requests=5)
    begin = threading.Barrier(8)

    def run() -> list[str]:
        with opened(gateway, token) as socket:
            begin.wait(20)
            for _ in range(8):
                socket.send(create(note=token.id))
            return [rest_of_turn(socket)[-1]["type"] for _ in range(8)]

    with ThreadPoolExecutor(8) as threads:
        ends = [end for found in [threads.submit(run) for _ in range(8)] for end in found.result()]
    assert sorted(ends) == ["error"] * 59 + ["response.completed"] * 5
    reached = [sent for ws in provider.websockets() for sent in ws["turns"] if sent.get("note") == token.id]
    assert len(reached) == 5
    assert gateway.request_count(token) == 5


def test_fragments_and_split_frames(gateway: Gateway, token: Token) -> None:
    """Fragmented messages of both sides are read as one; a long one passes whole."""
    message = create(note="x" * 300_000)
    with opened(gateway, token) as socket:
        socket.send([message[start : start + 70_000] for start in range(0, len(message), 70_000)])
        assert rest_of_turn(socket)[-1]["type"] == "response.completed"
        messages = turn(socket, simulate={"fragments": 7, "words": 2})
        assert messages[-1]["response"]["output"][0]["content"][0]["text"] == "w0 w1 "
        assert gateway.request_count(token) == 2


def test_a_failed_turn_counts_as_its_status(gateway: Gateway, token: Token) -> None:
    """An error in place of a response is a request that the provider refused."""
    with opened(gateway, token) as socket:
        assert turn(socket, simulate={"error": 400})[-1]["status"] == 400
        assert turn(socket)[-1]["type"] == "response.completed"
    lines = gateway.wait_for_access(2, token_id=token.id, kind="turn")
    assert [(line["status_code"], line["row"]) for line in lines] == [(400, 2), (200, 1)]


def test_a_provider_that_breaks_off(gateway: Gateway, token: Token) -> None:
    """The client sees the end as the provider made it, and the turn is charged."""
    with opened(gateway, token) as socket:
        socket.send(create(simulate={"cut": 2}))
        with pytest.raises(ConnectionClosed) as ended:
            rest_of_turn(socket)
        assert ended.value.rcvd is None
    (line,) = gateway.wait_for_access(1, token_id=token.id, kind="turn")
    assert (line["row"], line["error"]) == (7, "bad_gateway:body")
    assert gateway.request_count(token) == 1


def test_the_providers_close_passes(gateway: Gateway, token: Token) -> None:
    """Code and reason of the provider's close frame are the client's."""
    with opened(gateway, token) as socket:
        socket.send(create(simulate={"close": 4001}))
        with pytest.raises(ConnectionClosed) as ended:
            rest_of_turn(socket)
        assert ended.value.rcvd is not None
        assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (4001, "simulated")


def test_the_clients_close_passes(gateway: Gateway, provider: Provider, token: Token) -> None:
    """Code and reason of the client's close frame are the provider's."""
    with opened(gateway, token) as socket:
        socket.close(4002, "enough")
    eventually(lambda: provider.websockets()[-1]["closed_with"] == [4002, "enough"], 5)


def test_a_client_that_leaves_in_a_turn(gateway: Gateway, provider: Provider, token: Token) -> None:
    """The provider's connection ends with it, and the turn is charged."""
    with opened(gateway, token, close_timeout=0) as socket:
        socket.send(create(simulate={"interval": 0.05, "words": 400}))
        socket.recv(timeout=10)
        socket.socket.shutdown(2)
    (line,) = gateway.wait_for_access(1, token_id=token.id, kind="turn")
    assert (line["row"], line["status_code"]) == (10, 200)
    provider.wait_for_state(running=0)
    assert gateway.request_count(token) == 1


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("no JSON", 1002),
        ('{"type":"response.create","type":"x"}', None),
        ('{"type":"x","type":"response.create"}', None),
    ],
)
def test_what_two_readers_could_read_differently(gateway: Gateway, message: str, code: int | None) -> None:
    """With a quota, text that is no JSON ends the socket, and a member that stands twice is refused."""
    token = gateway.token(max_requests=10)
    with opened(gateway, token) as socket:
        socket.send(message)
        if code is None:
            assert json.loads(socket.recv(timeout=10))["error"]["code"] == "invalid_json"
            return
        with pytest.raises(ConnectionClosed) as ended:
            socket.recv(timeout=10)
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == code


def test_without_a_quota_anything_passes(gateway: Gateway, provider: Provider, token: Token) -> None:
    """Text that is no JSON comes back as the simulated provider echoes it; so do binary messages."""
    with opened(gateway, token) as socket:
        for message in ("no JSON", b"\0\1binary", "x" * 100_000):
            socket.send(message)
            assert socket.recv(timeout=10) == message


def test_too_long_a_message(gateway: Gateway, token: Token) -> None:
    """Past WS_MAX_MESSAGE both sides are told 1009."""
    with opened(gateway, token) as socket:
        socket.send(create(note="x" * 1_100_000))
        with pytest.raises(ConnectionClosed) as ended:
            socket.recv(timeout=10)
        assert ended.value.rcvd is not None
        assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (1009, "message_too_long")


def test_realtime_turns_that_the_provider_begins(gateway: Gateway) -> None:
    """A turn that no client asked for spends the unit in reserve; without one, the socket ends after it."""
    token = gateway.token(max_requests=2)
    with opened(gateway, token, REALTIME) as socket:
        assert json.loads(socket.recv(timeout=10))["type"] == "session.created"
        assert turn(socket)[-1]["type"] == "response.done"
        socket.send('{"type":"input_audio_buffer.append","simulate":{"begin":1}}')
        assert rest_of_turn(socket)[-1]["type"] == "response.done"
        with pytest.raises(ConnectionClosed) as ended:
            socket.recv(timeout=10)
        assert ended.value.rcvd is not None
        assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (1008, "rate_limit_exceeded")
    assert gateway.request_count(token) == 2
    models = "SELECT model, sum(requests) FROM usage_daily WHERE token_id = ? GROUP BY model"
    eventually(
        lambda: gateway.rows(models, (token.id,)) == [("gpt-realtime", 2)],
        10,
        lambda: str(gateway.rows(models, (token.id,))),
    )


def test_an_unused_reserve_comes_back(gateway: Gateway) -> None:
    """A Realtime socket on which nothing was said costs nothing."""
    token = gateway.token(max_requests=1)

    def opens() -> bool:
        """Whether a socket opens: it does as soon as the reserve of the one before is back."""
        try:
            with opened(gateway, token, REALTIME) as socket:
                socket.recv(timeout=10)
        except InvalidStatus:
            return False
        return True

    assert opens()
    eventually(opens, 5)
    eventually(lambda: gateway.request_count(token) == 0, 5)


def test_transcriptions_are_turns(gateway: Gateway) -> None:
    """Each costs a unit, and its usage is the transcribing model's; without a unit the socket ends."""
    token = gateway.token(max_requests=2)
    with opened(gateway, token, REALTIME) as socket:
        socket.send('{"type":"input_audio_buffer.append","simulate":{"transcribe":2}}')
        assert close_of(socket) == (1008, "rate_limit_exceeded")
    assert gateway.request_count(token) == 2
    rows = "SELECT model, sum(requests), sum(prompt_tokens), sum(completion_tokens) FROM usage_daily WHERE token_id = ?"
    wanted = [("gpt-4o-transcribe", 2, 28, 10)]
    eventually(lambda: gateway.rows(f"{rows} GROUP BY model", (token.id,)) == wanted, 10)

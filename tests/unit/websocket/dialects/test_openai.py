"""Which messages of OpenAI's WebSockets begin, carry and end turns."""

import json
from typing import Any

import pytest

from llm_proxy.errors import InvalidJson, QuotaExhausted
from llm_proxy.websocket.dialects.openai import ClientMessage, OpenAI, ServerMessage, Unreadable, with_model
from llm_proxy.websocket.turns import Step, TurnBook

RESPONSES, REALTIME = OpenAI("/v1/responses"), OpenAI("/v1/realtime")


def written(**members: Any) -> bytes:
    """A message."""
    return json.dumps(members).encode()


@pytest.mark.parametrize(
    "message",
    [
        b'{"type":"response.create","model":"m"}',
        b' {"a":1,"type":"response.create"}\n',
        b'{"type":"response\\u002ecreate"}',
        b'{"\\u0074ype":"response.create"}',
        b'{"Type":"response.create"}',
    ],
)
def test_turns_are_found_however_they_are_spelled(message: bytes) -> None:
    """Escapes, blanks, order and case hide no turn."""
    assert RESPONSES.client(message).is_turn


@pytest.mark.parametrize("message", [b'{"type":"response.steer"}', b'{"type":"x","text":"response.create"}', b"{}"])
def test_other_messages_are_no_turns(message: bytes) -> None:
    """Only the type counts, and a steer belongs to the turn that runs."""
    assert not RESPONSES.client(message).is_turn


@pytest.mark.parametrize(
    "message", [b"", b"text", b"[]", b'"response.create"', b'{"type":"response.create"', b"\xff\\"]
)
def test_what_is_no_object_is_unreadable(message: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(Unreadable):
        RESPONSES.client(message)


def test_a_member_twice_is_refused() -> None:
    """One reader takes the first, another the last."""
    with pytest.raises(InvalidJson):
        RESPONSES.client(b'{"type":"response.create","type":"x"}')


@pytest.mark.parametrize("names", [("type", "Type"), ("model", "MODEL"), ("a", "A")])
def test_a_member_in_two_cases_is_refused(names: tuple[str, str]) -> None:
    """Go takes the last of them, others only one."""
    first, second = names
    with pytest.raises(InvalidJson):
        RESPONSES.client(b'{"type":"response.create","%s":"x","%s":"y"}' % (first.encode(), second.encode()))


def test_a_response_in_another_case_is_checked() -> None:
    """Go takes it for the response."""
    asked = REALTIME.client(written(type="response.create", Response={"voice": "x"}))
    assert json.loads(asked.parameters or b"") == {"voice": "x"}


def test_members_of_every_kind_are_parameters() -> None:
    """Also where none of them is the model; blanks do not count, and no object has none."""
    assert json.loads(REALTIME.client(written(type="response.create", response={"n": [1, {}]})).parameters or b"") == {
        "n": [1, {}]
    }
    assert REALTIME.client(b'{"type":"response.create","response": { } }').parameters is None


@pytest.mark.parametrize(
    "message",
    [
        {"type": "response.completed", "response": {"id": "r", "output": ["x" * 70_000], "status": "completed"}},
        {"type": "response.output_text.done", "response_id": "r", "stream_id": "s", "text": "x" * 70_000},
        {
            "type": "error",
            "status": 429,
            "error": {"code": "conversation_already_has_active_response"},
            "x": "x" * 70_000,
        },
        {"type": "session.updated", "session": {"model": "m"}, "x": "x" * 70_000},
        {"type": "session.updated", "session": {"model": "m", "instructions": "x" * 70_000}},
        {
            "type": "session.updated",
            "session": {"audio": {"input": {"transcription": {"model": "t"}}}, "tools": ["x" * 70_000]},
        },
        {"type": "conversation.item.created", "item": "x" * 70_000},
    ],
    ids=lambda message: message["type"],
)
def test_a_long_message_of_the_provider_says_what_a_short_one_does(message: dict[str, Any]) -> None:
    """It is read in turns."""
    short = json.loads(json.dumps(message).replace("x" * 70_000, "x"))
    assert RESPONSES.server(written(**message), is_alone=False) == RESPONSES.server(written(**short), is_alone=False)


@pytest.mark.parametrize("member", [b'"error":{"message":"\\ud800"}', b'"status":1e999'], ids=["surrogate", "number"])
@pytest.mark.parametrize("padding", [b"x", b"x" * 70_000], ids=["short", "long"])
def test_what_json_readers_do_not_take_is_unreadable(member: bytes, padding: bytes) -> None:
    """Whatever the message's length: the bytes pass, or end the socket where they must be read."""
    with pytest.raises(Unreadable):
        RESPONSES.server(b'{"type":"error",' + member + b',"x":"' + padding + b'"}', is_alone=False)


def test_realtimes_parameters_stand_deeper() -> None:
    """Rules are for the response's or the session's members."""
    asked = REALTIME.client(written(type="response.create", event_id="e", response={"model": "m"}))
    assert (asked.is_turn, asked.event_id, asked.model) == (True, "e", "m")
    assert json.loads(asked.parameters or b"") == {"model": "m"}
    session = REALTIME.client(written(type="session.update", session={"model": "n"}))
    assert (session.is_turn, json.loads(session.parameters or b"")) == (False, {"model": "n"})


@pytest.mark.parametrize("message", [b"{}", b' { "a" : 1 } ', b'{"model":"other"}'])
def test_the_sessions_model_is_the_last_word(message: bytes) -> None:
    """A client cannot have its turns counted as another model's."""
    assert json.loads(with_model(message, "gpt-realtime"))["model"] == "gpt-realtime"


def test_errors_have_the_apis_form() -> None:
    """Responses shows the status, Realtime the event that failed."""
    told = json.loads(RESPONSES.error(QuotaExhausted(), ClientMessage(stream_id="s"), "event_1"))
    assert (told["type"], told["status"], told["stream_id"]) == ("error", 429, "s")
    assert told["error"]["code"] == "rate_limit_exceeded"
    told = json.loads(REALTIME.error(QuotaExhausted(), ClientMessage(event_id="e"), "event_1"))
    assert (told["event_id"], told["error"]["event_id"]) == ("event_1", "e")


def server(dialect: OpenAI = RESPONSES, **members: Any) -> ServerMessage:
    """A provider's message, read."""
    return dialect.server(written(**members), is_alone=False)


def test_turns_are_matched_in_order() -> None:
    """Without a stream's id the oldest turn comes first; its response's id binds the end to it."""
    book: TurnBook[str] = TurnBook(is_realtime=False)
    book.begin("a", ClientMessage())
    book.begin("b", ClientMessage())
    assert book.take(server(type="response.created", response={"id": "1"})) == (Step.BEGUN, "a")
    assert book.take(server(type="response.output_text.delta", delta="x")) == (Step.PART, "a")
    assert book.take(server(type="response.created", response={"id": "2"})) == (Step.BEGUN, "b")
    assert book.take(server(type="response.completed", response={"id": "2"})) == (Step.ENDED, "b")
    assert book.take(server(type="response.failed", response={"id": "1"})) == (Step.ENDED, "a")
    assert book.running == []


def test_streams_are_matched_by_their_ids() -> None:
    """A stream's id decides, whatever the order."""
    book: TurnBook[str] = TurnBook(is_realtime=False)
    for name in "ab":
        book.begin(name, ClientMessage(stream_id=name))
    assert book.take(server(type="response.created", stream_id="b", response={"id": "1"})) == (Step.BEGUN, "b")
    assert book.take(server(type="error", stream_id="a", status=404)) == (Step.FAILED, "a")
    assert book.take(server(type="response.completed", response={"id": "1"})) == (Step.ENDED, "b")


def test_realtimes_errors_name_their_turn() -> None:
    """An error of something else ends no turn; a response that was not asked for is strange."""
    book: TurnBook[str] = TurnBook(is_realtime=True)
    book.begin("a", ClientMessage(event_id="e"))
    assert book.take(server(type="error", error={"code": "x", "event_id": "other"})) == (Step.NONE, None)
    assert book.take(server(type="error", error={"code": "x"})) == (Step.NONE, None)
    assert book.take(server(type="error", error={"code": "x", "event_id": "e"})) == (Step.FAILED, "a")
    assert book.take(server(type="response.created", response={"id": "1"})) == (Step.STRANGE, None)


def test_a_transcription_is_a_turn_of_one_message() -> None:
    """It touches no turn that runs; its model is the session's, wherever that stands."""
    book: TurnBook[str] = TurnBook(is_realtime=True)
    book.begin("a", ClientMessage())
    kind = "conversation.item.input_audio_transcription.completed"
    assert book.take(server(REALTIME, type=kind, usage={"type": "tokens"})) == (Step.WHOLE, None)
    assert [running.turn for running in book.running] == ["a"]
    transcription = {"transcription": {"model": "m"}}
    for kind, session in (
        ("session.created", {"audio": {"input": transcription}}),
        ("transcription_session.updated", {"input_audio_transcription": {"model": "m"}}),
    ):
        assert server(REALTIME, type=kind, session=session).transcriber == "m"


def test_deltas_of_the_only_turn_are_not_parsed() -> None:
    """Most messages are deltas: a look at their type is enough."""
    sniffed = RESPONSES.server(b'{"type":"response.output_text.delta","delta":"x', is_alone=True)
    assert sniffed.kind == "response.output_text.delta"
    with pytest.raises(Unreadable):
        RESPONSES.server(b'{"type":"response.output_text.delta","delta":"x', is_alone=False)

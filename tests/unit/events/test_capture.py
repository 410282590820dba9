"""events.capture: what is kept of an exchange."""

import pytest

from llm_proxy.events import capture as module
from llm_proxy.events.capture import Capture, CaptureLimits, end_to_end
from llm_proxy.events.event import TAIL_BYTES, Event
from llm_proxy.events.secrets import Secrets
from llm_proxy.settings import EventSettings

TOKEN = "sk-0123456789abcdefghijkl"
LIMITS = CaptureLimits(request_bytes=100, response_bytes=200)


def captured(
    limits: CaptureLimits = LIMITS,
    *,
    request: list[bytes] | None = None,
    response: list[bytes] | None = None,
    method: str = "POST",
    request_type: str | None = "application/json",
    response_type: str = "application/json",
    privacy: str = "full",
    secrets: tuple[str, ...] = (),
) -> Event | None:
    """The event of one exchange."""
    tap = Capture(
        limits,
        method=method,
        path="/v1/x?key=secret",
        request_id="r",
        started_at_s=1.5,
        request_type=request_type,
        privacy=privacy,
    )
    for chunk in request or []:
        tap.request_data(chunk)
    tap.response_started(200, [("content-type", response_type), ("x-note", TOKEN)])
    for chunk in response or []:
        tap.response_data(chunk)
    tap.finish(status=200, outcome="ok", duration_ns=5, secrets=secrets)
    return None if tap.is_off else tap.event()


def full(found: Event | None) -> Event:
    """The event, which must be there."""
    assert found is not None
    return found


@pytest.mark.parametrize(("size", "is_cut"), [(99, False), (100, False), (101, True), (5000, True)])
def test_exactly_the_cap_is_kept(size: int, is_cut: bool) -> None:
    """Of a longer body exactly N bytes, of a shorter one all; longer ones are marked and their length given."""
    found = full(captured(request=[b"x" * size]))
    assert found.request_body == b"x" * min(size, 100)
    assert found.request_truncated is is_cut
    assert found.request_bytes == (size if is_cut else None)


@pytest.mark.parametrize("piece", [1, 7, 4096, 100_000])
def test_a_long_response_keeps_its_first_bytes_and_its_last(piece: int) -> None:
    """However it was chunked: N bytes from the front, 16 KiB from the end."""
    body = b"".join(b"%07d " % n for n in range(10_000))
    found = full(captured(response=[body[at : at + piece] for at in range(0, len(body), piece)]))
    assert found.response_body == body[:200]
    assert found.response_tail == body[-TAIL_BYTES:]
    assert found.response_bytes == len(body)


def test_a_response_a_little_longer_than_the_cap_keeps_its_last_bytes_too() -> None:
    """The tail is the end of the whole body, also where it overlaps the part that was kept."""
    body = bytes(n % 251 for n in range(230))
    found = full(captured(response=[body]))
    assert (found.response_body, found.response_tail) == (body[:200], body)


def test_memory_is_bounded() -> None:
    """Neither big nor many chunks make the tap hold more than the caps, the tail and a little."""
    tap = Capture(LIMITS, method="POST", path="/", request_id="r", started_at_s=0.0)
    for _ in range(1000):
        tap.response_data(b"x" * 100_000)
    held = sum(map(len, tap._response._head)) + sum(map(len, tap._response._tail or ()))
    assert held <= LIMITS.response_bytes + TAIL_BYTES + 2 * module._SLACK_BYTES


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_other_methods_have_no_request_body(method: str) -> None:
    """Only POST, PUT and PATCH have theirs captured."""
    assert full(captured(method=method, request=[b"x"])).request_body is None


@pytest.mark.parametrize(
    ("media_type", "is_kept"),
    [
        ("application/json; charset=utf-8", True),
        ("application/vnd.api+json", True),
        ("text/plain", True),
        ("application/x-www-form-urlencoded", True),
        (None, True),
        ("multipart/form-data; boundary=x", False),
        ("application/octet-stream", False),
        ("audio/mpeg", False),
    ],
)
def test_binary_requests_are_measured_only(media_type: str | None, is_kept: bool) -> None:
    """JSON, text and forms are kept; of the rest the length."""
    found = full(captured(request_type=media_type, request=[b"abc"]))
    assert (found.request_body, found.request_bytes) == ((b"abc", None) if is_kept else (None, 3))


@pytest.mark.parametrize("media_type", ["audio/mpeg", "image/png", "video/mp4", "application/octet-stream"])
def test_binary_responses_are_measured_only(media_type: str) -> None:
    """Sounds and pictures do not travel in events."""
    found = full(captured(response_type=media_type, response=[b"abc"]))
    assert (found.response_body, found.response_bytes) == (None, 3)


def test_secrets_are_masked_wherever_they_stand() -> None:
    """The token in a body, split over chunks, and in a field, is seen in its masked form only."""
    body = f'{{"a":"{TOKEN}"}}'.encode()
    found = full(captured(request=[body[:12], body[12:]], response=[body], secrets=(TOKEN,)))
    assert TOKEN.encode() not in found.to_wire()
    assert found.request_body == b'{"a":"sk-01234...ijkl"}'


@pytest.mark.parametrize("place", range(60, 110))
def test_a_secret_at_the_cap_leaves_nothing_of_itself(place: int) -> None:
    """A secret that the cap would cut is masked before the cut."""
    body = b"x" * place + TOKEN.encode() + b"y" * 100
    found = full(captured(request=[body], secrets=(TOKEN,)))
    assert found.request_body is not None
    assert len(found.request_body) == 100
    assert TOKEN[:12].encode() not in found.request_body


@pytest.mark.parametrize("place", range(0, 60, 3))
def test_a_secret_at_the_tail_leaves_nothing_of_itself(place: int) -> None:
    """The same where the tail begins."""
    body = b"x" * 30_000 + TOKEN.encode() + b"y" * (TAIL_BYTES - place)
    found = full(captured(response=[body], secrets=(TOKEN,)))
    assert found.response_tail is not None
    assert TOKEN[-12:].encode() not in found.response_tail


def test_fields_that_may_hold_secrets_are_left_out() -> None:
    """Cookies, credentials and names that sound like one go; rate limits stay, repeated fields stay in order."""
    fields = [
        ("set-cookie", "a"),
        ("Authorization", ""),
        ("x-session-TOKEN", "c"),
        ("Client-Secret", "d"),
        ("x-api-key", "e"),
        ("apikey-id", "f"),
        ("x-ratelimit-remaining-tokens", "9"),
        ("x-request-id", "1"),
        ("X-Request-ID", "2"),
    ]
    assert end_to_end(fields, Secrets(())) == {"X-Ratelimit-Remaining-Tokens": ["9"], "X-Request-Id": ["1", "2"]}


def test_privacy_metadata_keeps_no_body() -> None:
    """Bodies are null, their lengths known, and the end of the response is kept for its usage alone."""
    found = full(captured(privacy="metadata", request=[b"{}"], response=[b'{"usage":{}}']))
    assert (found.request_body, found.response_body, found.request_bytes, found.response_bytes) == (None, None, 2, 12)
    assert found.usage_source == b'{"usage":{}}'


def test_privacy_off_makes_no_event() -> None:
    """Nothing is captured and nothing made."""
    assert captured(privacy="off", request=[b"{}"]) is None


def test_bodies_can_be_switched_off_for_all() -> None:
    """OBSERVABILITY_CAPTURE_BODIES=none holds also for projects that say full."""
    limits = CaptureLimits.from_settings(EventSettings(capture_bodies="none"))
    assert full(captured(limits, request=[b"{}"], response=[b"{}"])).response_body is None


def test_a_cap_of_zero_or_less_means_the_default() -> None:
    """As documented for both variables."""
    limits = CaptureLimits.from_settings(EventSettings(max_request_body_bytes=0, max_response_body_bytes=-1))
    assert (limits.request_bytes, limits.response_bytes) == (65536, 262144)


def test_the_path_has_no_query_and_is_bounded() -> None:
    """Queries may hold secrets."""
    assert full(captured()).path == "/v1/x"
    tap = Capture(LIMITS, method="GET", path="/" + "a" * 5000, request_id="r", started_at_s=0.0)
    tap.finish(status=200, outcome="ok", duration_ns=1)
    assert len(tap.event().path) == 2048


def test_a_fault_inside_costs_the_bodies_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in capturing is logged and swallowed: the event comes without bodies."""

    def broken(self: object, body: bytes) -> bytes:
        raise RuntimeError("boom")

    monkeypatch.setattr(Secrets, "hide", broken)
    found = full(captured(request=[b"{}"], response=[b"{}"]))
    assert (found.status, found.request_body) == (200, None)


def test_the_fields_of_a_stream_wait_as_one_text_and_come_back_as_they_were() -> None:
    """Repetitions, empty values and masking included; names that hold secrets are left out as ever."""
    fields = [
        ("Content-Type", "text/event-stream; charset=utf-8"),
        ("X-A", "1"),
        ("x-a", ""),
        ("X-A", f"of {TOKEN}"),
        ("Set-Cookie", "a=b"),
    ]
    tap = Capture(LIMITS, method="POST", path="/v1/x", request_id="r", started_at_s=1.5)
    tap.response_started(200, fields)
    tap.finish(status=200, outcome="ok", duration_ns=5, secrets=(TOKEN,))
    event = tap.event()
    assert event.response_headers == end_to_end(fields, Secrets((TOKEN,)))
    assert event.response_headers["X-A"][:2] == ["1", ""]


def test_the_usage_that_was_counted_is_in_the_event() -> None:
    """Asked for when the event is made; the end of a body that is not kept is not read beside it."""
    counts = {"prompt_tokens": 3, "completion_tokens": 4, "cached_tokens": 0, "reasoning_tokens": 0, "estimated": 1}
    tap = Capture(LIMITS, method="POST", path="/v1/x", request_id="r", started_at_s=1.5)
    tap.finish(status=200, outcome="ok", duration_ns=5, usage=lambda: counts)
    assert tap.event().usage == counts

"""Parsers that bytes of clients or providers reach take time in proportion to their input, at its worst.

Each case makes the worst input of one parser for a size in bytes. CPU time of four times the size may be eight times
as much at most, where a quadratic parser needs sixteen times as much.
"""

import contextlib
import datetime
import gc
import importlib
import ipaddress
import math
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import BuiltinMethodType
from typing import Any

import pytest

import llm_proxy
from llm_proxy.cache import targeted
from llm_proxy.cache.directives import age, directives, instant, tags
from llm_proxy.errors import InvalidRequest, LlmProxyError
from llm_proxy.events.secrets import Secrets
from llm_proxy.formats.body import Body
from llm_proxy.formats.lenient_json import loads_object
from llm_proxy.formats.multipart import boundary_of
from llm_proxy.formats.names import is_readable
from llm_proxy.formats.reading import read
from llm_proxy.formats.request_body import SLICE_BYTES, model_of, reader_of
from llm_proxy.formats.sse import blocks, events, whole_events
from llm_proxy.forwarding.request import client_address
from llm_proxy.providers import AllowList, Provider, ProviderTimeouts
from llm_proxy.providers.path_model import PathModel
from llm_proxy.redaction import Redactor
from llm_proxy.tokens.bearer import is_in
from llm_proxy.usage import meter
from llm_proxy.usage.prices import Prices
from llm_proxy.websocket.dialects.openai import OpenAI, Unreadable
from llm_proxy.websocket.frames import BrokenFrame, FrameReader

_ROUNDS, _GROWTH, _MOST = 4, 4, 8
_LEAST_S = 0.0005  # below this the clock measures itself

_FORM_TYPE = "multipart/form-data; boundary=b"
Case = tuple[Callable[[int], object], Callable[[object], object], int]


def _redact(make: Callable[[int], str], size: int = 8192) -> Case:
    redactor = Redactor(["a-literal-secret"])
    return make, lambda text: redactor.text(str(text)), size


def _repeated(piece: str, end: str = "", clue: str = "@") -> Callable[[int], str]:
    return lambda size: clue + piece * (size // len(piece)) + end


def _model(content_type: str, piece: bytes, start: bytes = b"") -> Case:
    return (
        lambda size: start + piece * (size // len(piece)),
        lambda body: model_of(content_type, body),
        65536,
    )


def _body(content_type: str, piece: bytes, start: bytes = b"", end: bytes = b"", size: int = 65536) -> Case:
    def read(body: object) -> None:
        assert isinstance(body, bytes)
        reader = reader_of(content_type, {"model"}, lambda found: None, max_watched_bytes=1 << 30)
        with contextlib.suppress(InvalidRequest):
            for position in range(0, len(body), SLICE_BYTES):
                reader.feed(body[position : position + SLICE_BYTES])
            reader.finish()

    return lambda size: start + piece * (size // len(piece)) + end, read, size


def _json(piece: bytes, start: bytes = b'{"x":[0', end: bytes = b"]}") -> Case:
    return _body("application/json", piece, start, end, size=16384)


def _form(piece: bytes, start: bytes = b"", size: int = 65536) -> Case:
    return _body("multipart/form-data; boundary=b", piece, b"--b\r\n" + start, size=size)


_NAMED = b'Content-Disposition: form-data; name="model"\r\n\r\n'


def _bytes(parse: Callable[[bytes], object], piece: bytes, start: bytes = b"", size: int = 65536) -> Case:
    return lambda size: start + piece * (size // len(piece)), lambda data: parse(data), size


def _reading(data: bytes) -> object:
    half = len(data) // 2
    return read(Body(data[:half], data[half:], missing=10))


SECRETS = Secrets(("sk-aaaabbbbccccdddd",))
_TRUSTED = [ipaddress.ip_network("10.0.0.0/8")]
_ALLOWED = AllowList(
    Provider(
        name="p",
        base_url="http://x",
        origin="http://x:80",
        host="x",
        base_path="",
        allowed_methods=("GET",),
        allowed_endpoints=("/v1/",),
        timeouts=ProviderTimeouts(1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        param_whitelist={},
    )
)


def _text(parse: Callable[[str], object], piece: str, start: str = "") -> Case:
    return lambda size: start + piece * (size // len(piece)), lambda text: parse(str(text)), 16384


def _endpoint(path: str) -> None:
    with contextlib.suppress(LlmProxyError):
        _ALLOWED.check_endpoint(path)


def _frames(data: bytes) -> None:
    with contextlib.suppress(BrokenFrame):
        for _ in FrameReader(is_masked=True).feed(data):
            pass


def _frames_by_byte(data: bytes) -> None:
    reader = FrameReader(is_masked=True)
    for at in range(len(data)):
        list(reader.feed(data[at : at + 1]))


def _asked(message: bytes) -> None:
    with contextlib.suppress(Unreadable, InvalidRequest):
        OpenAI("/v1/realtime").client(message + b"]}}" if message.endswith(b"[]") else message + b"}")


CASES: dict[str, Case] = {
    "redaction: letters before a scheme": _redact(_repeated("a")),
    "redaction: letters before a host": _redact(_repeated("a", "@tcp(")),
    "redaction: words before a host": _redact(_repeated("a.", "@tcp(")),
    "redaction: users": _redact(_repeated("a:", "@tcp(")),
    "redaction: users and hosts": _redact(_repeated("a:b@tcp(")),
    "redaction: addresses": _redact(_repeated("a://b:")),
    "redaction: addresses of one word": _redact(_repeated("a://b:c@")),
    "redaction: addresses without a user": _redact(_repeated("a://")),
    "redaction: at signs": _redact(_repeated("@")),
    "redaction: short keys": _redact(_repeated("sk-")),
    "redaction: keys": _redact(_repeated("sk-aaaaaaaa ")),
    "redaction: google keys": _redact(_repeated("AIza")),
    "redaction: schemes": _redact(_repeated("bearer ")),
    "redaction: blanks behind a scheme": _redact(_repeated(" ", clue="bearer")),
    "redaction: blanks behind a field": _redact(_repeated(" ", clue="cookie")),
    "redaction: fields": _redact(_repeated("cookie ")),
    "redaction: fields of a value": _redact(_repeated("cookie:'")),
    "redaction: blanks behind a name": _redact(_repeated(" ", clue="secret=")),
    "redaction: names": _redact(_repeated("secret=")),
    "redaction: quoted names": _redact(_repeated("api_key='")),
    "redaction: escapes": _redact(_repeated("%25")),
    "redaction: backslashes": _redact(_repeated("\\", clue="\\u0041")),
    "frames: pings": _bytes(_frames, b"\x89\x80\0\0\0\0", size=16384),
    "frames: fragments": _bytes(_frames, b"\0\x80\0\0\0\0", b"\x01\x80\0\0\0\0", size=16384),
    "frames: heads": _bytes(_frames_by_byte, b"\x89\x80\0\0\0\0", size=8192),
    "messages: members": _bytes(_asked, b',"":{"":0}', b'{"type":"response.create"', size=16384),
    "messages: a response": _bytes(_asked, b",[]", b'{"type":"response.create","response":{"a":[0', size=16384),
    "json: a string": _json(b"x", b'{"x":"', b'"}'),
    "json: escapes": _json(b"\\u0041", b'{"x":"', b'"}'),
    "json: backslashes": _json(b"\\\\", b'{"x":"', b'"}'),
    "json: a string without an end": _json(b"x", b'{"x":"', b""),
    "json: numbers": _json(b",1"),
    "json: digits": _json(b"1", b'{"x":', b"}"),
    "json: blanks": _json(b" "),
    "json: lists": _json(b",[]"),
    "json: open lists": _json(b"["),
    "json: deep lists": _json(b",[[[[[[]]]]]]"),
    "json: deep objects": _json(b',{"":{"":{"":{"":{"":0}}}}}'),
    "json: lists in objects": _json(b',[{"":[{"":[{}]}]}]'),
    "json: lists that break at their end": _json(b',[0,[0,[0,[0,[0,{"":0},x'),
    "json: members": _json(b',"":0', b'{"a":0', b"}"),
    "json: watched members": _json(b',"model":"x"', b'{"a":0', b"}"),
    "json: a watched value": _json(b",0", b'{"model":[0', b"]}"),
    "json: names": _json(b"x", b'{"', b'":0}'),
    "urlencoded: fields": _body("application/x-www-form-urlencoded", b"a&"),
    "urlencoded: semicolons": _body("application/x-www-form-urlencoded", b"a;" + b"%41" * 100 + b"&", size=16384),
    "urlencoded: values": _body("application/x-www-form-urlencoded", b"%41", b"model="),
    "urlencoded: blanks": _body("application/x-www-form-urlencoded", b" "),
    "multipart: content": _form(b"x", _NAMED),
    "multipart: marks": _form(b"\r\n--c", _NAMED),
    "multipart: line ends": _form(b"\r\n", _NAMED),
    "multipart: parts": _form(_NAMED + b"x\r\n--b\r\n"),
    "multipart: lines of a head": _form(b"a:\r\n", size=4096),
    "multipart: blanks behind a name": _form(b" ", b"Content-Disposition: form-data; name", size=3500),
    "multipart: parameters": _form(b";a=b", b"Content-Disposition: form-data", size=3500),
    "multipart: quotes": _form(b'"name=', b"Content-Disposition: form-data;name=", size=3500),
    "multipart: escapes": _form(b"\\a", b'Content-Disposition: form-data;name="', size=3500),
    "boundaries: parameters": (lambda n: ";boundary=" * (n // 10), lambda t: _suppressed(boundary_of, str(t)), 4096),
    "boundaries: quotes": (lambda n: ';a="' + "\\a" * (n // 2), lambda t: _suppressed(boundary_of, str(t)), 4096),
    "charsets": (lambda n: "a" + ";charset" * (n // 8), lambda t: is_readable(str(t)), 4096),
    "a form's model: names": _model(_FORM_TYPE, b"name=model\r\n", b"--b\r\n"),
    "a form's model: heads": _model(_FORM_TYPE, b"\r\n\r\n", b"--b\r\n"),
    "a form's model: parts": _model(_FORM_TYPE, b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\na\r\n'),
    "a form's model: short marks": _model("multipart/form-data; boundary=-", b"\r\n--", b"---\r\n"),
    "a model beside nested values": _model("application/json", b'{"a":[{"a":[0]}]},', b'{"a":['),
    "a path: versions": _text(meter._GENERATES.search, "1", "/v1/v"),
    "a path: deployments": _text(meter._GENERATES.search, "deployments/", "/"),
    "a path: escapes": _text(_endpoint, "%25", "/v1/"),
    "a path: parameters": _text(_endpoint, ";a/", "/v1/"),
    "a path: segments": _text(_endpoint, "a/.", "/v1/"),
    "a path's models": _text(PathModel(["/models/{model}:*"]).readings, ":%3A", "/models/a"),
    "tokens in a text": _text(is_in, "sk--"),
    "addresses": _text(lambda text: client_address("10.0.0.1", [text], _TRUSTED), "10.0.0.1,"),
    "addresses: ports": _text(lambda text: client_address("10.0.0.1", [text], _TRUSTED), ":1"),
    "cache directives: quotes": _text(lambda text: directives([text]), 'a="'),
    "cache directives: backslashes": _text(lambda text: directives([text]), "\\", 'a="'),
    "cache directives: targeted": _text(targeted.parsed, ";a", "a"),
    "cache directives: targeted texts": _text(targeted.parsed, '\\"', 'a="'),
    "entity tags": _text(lambda text: tags([text]), 'W/"'),
    "ages": _text(lambda text: age([text]), "1"),
    "dates": _text(instant, "Mon, "),
    "model names with a date": _text(Prices({}, datetime.date(2026, 1, 1)).of, "-2026-01-01"),
    "secrets: escapes": _bytes(SECRETS.hide_spelled, b"\\u002d"),
    "secrets: percent signs": _bytes(SECRETS.hide_spelled, b"%73"),
    "secrets: backslashes": _bytes(SECRETS.hide_spelled, b"\\", b"%73"),
    "secrets: beginnings": _bytes(SECRETS.hide_spelled, b"sk-aaaa%62"),
    "JSON: half pairs": _bytes(loads_object, rb"\ud83d", b'{"a":"'),
    "JSON: backslashes": _bytes(loads_object, b"\\", b'{"a":"\xff'),
    "JSON: arrays": _bytes(loads_object, b"[", b'{"a":'),
    "events: lines": _bytes(lambda data: list(events(data)), b"data:\r"),
    "events: ends": _bytes(blocks, b"\r\n\r"),
    "events: carriage returns": _bytes(whole_events, b"\r\n"),
    "response: names": _bytes(_reading, b'"content" ', b"{"),
    "response: members": _bytes(_reading, b'"text":"', b"{"),
    "response: blanks": _bytes(_reading, b" ", b'{"usage"'),
    "response: usages": _bytes(_reading, b'"usage":{', b"{"),
    "response: backslashes": _bytes(_reading, b"\\", b'{"content":"'),
    "response: lines": _bytes(lambda data: read(Body(data)), b'{"a":1}\n'),
    "response: arrays": _bytes(lambda data: read(Body(data)), b"[", b'{"content":'),
}


def _suppressed(parse: Callable[[str], object], text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        parse(text)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_time_grows_with_the_input(case: Case) -> None:
    """Four times the input takes no more than eight times the CPU time."""
    make, parse, size = case
    small, large = make(size), make(size * _GROWTH)
    with _without_collector():
        once = _best_s(parse, small)
        bound = max(once, _LEAST_S) * _MOST
        more = _best_s(parse, large, enough=bound)
    assert more <= bound, f"{size} bytes: {once * 1000:.2f} ms, times {_GROWTH}: {more * 1000:.2f} ms"


def _best_s(parse: Callable[[object], object], value: object, enough: float = 0.0) -> float:
    """Measure the shortest of all rounds; a round that needs no more than `enough` is the last one."""
    best = math.inf
    for _ in range(_ROUNDS):
        best = min(best, _cpu_s(parse, value))
        if best <= enough:
            break
    return best


def _cpu_s(parse: Callable[[object], object], value: object) -> float:
    began = time.thread_time()
    parse(value)
    return time.thread_time() - began


@contextmanager
def _without_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _patterns() -> Iterator[tuple[str, re.Pattern[Any]]]:
    """Yield the patterns that modules hold, with their names."""
    for module in pkgutil.walk_packages(llm_proxy.__path__, "llm_proxy."):
        if ".migrations" in module.name or module.name.endswith(("__main__", "gunicorn_conf")):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            pattern = value.__self__ if type(value) is BuiltinMethodType else value  # a bound `fullmatch`
            if type(pattern) is re.Pattern:
                yield f"{module.name}.{name}", pattern


def _may_go_back(parsed: Any) -> bool:
    """Whether a sequence of pattern items can match in more than one way, or looks around."""
    for code, argument in parsed:
        kind = str(code)
        if kind in ("BRANCH", "ASSERT", "ASSERT_NOT", "GROUPREF_EXISTS"):
            return True
        if kind in ("MAX_REPEAT", "MIN_REPEAT") and argument[0] != argument[1]:
            return True
        if isinstance(argument, tuple) and any(_may_go_back(part) for part in argument if _is_sequence(part)):
            return True
    return False


def _is_sequence(part: Any) -> bool:
    return type(part).__name__ == "SubPattern"


def _possessive_groups(parsed: Any) -> Iterator[Any]:
    for code, argument in parsed:
        if str(code) == "POSSESSIVE_REPEAT":
            yield argument[2]
        for part in argument if isinstance(argument, tuple) else ():
            for inner in part if isinstance(part, list) else [part]:
                if _is_sequence(inner):
                    yield from _possessive_groups(inner)


def test_no_possessive_group_can_match_in_two_ways() -> None:
    """CPython before 3.11.5, as Debian 12 has it, returns into such a group and matches what is none."""
    parser = importlib.import_module("re._parser")  # which typeshed leaves out
    found = [
        name
        for name, pattern in _patterns()
        if any(map(_may_go_back, _possessive_groups(parser.parse(pattern.pattern, pattern.flags))))
    ]
    assert found == []

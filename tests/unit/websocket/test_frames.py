"""Frames are read the same however their bytes are split, and as a reference implementation reads them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import SERVER, Protocol

from llm_proxy.websocket import frames
from llm_proxy.websocket.frames import BrokenFrame, FrameReader, close_frame, frame
from llm_proxy.websocket.messages import Assembler, MessageTooLong

Read = list[tuple[int, bytes]]


def fragments(payload: bytes, cuts: list[int], opcode: int, *, is_masked: bool) -> bytes:
    """A message in as many frames, as the library writes them."""
    places = [0, *sorted(cut % (len(payload) + 1) for cut in cuts), len(payload)]
    parts = [payload[a:b] for a, b in itertools.pairwise(places)]
    out = b""
    for number, part in enumerate(parts):
        kind = Opcode.CONT if number else Opcode(opcode)
        out += Frame(kind, part, fin=number == len(parts) - 1).serialize(mask=is_masked)
        out += Frame(Opcode.PING, b"between").serialize(mask=is_masked) if number == 0 else b""
    return out


MESSAGES = st.lists(
    st.tuples(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=3), st.sampled_from([1, 2])), max_size=5
)


def read(reader: FrameReader, chunks: list[bytes]) -> tuple[Read, bytes]:
    """The whole messages of some chunks, and the bytes that the reader handed on."""
    assembler, found, raw = Assembler(1 << 20), list[tuple[int, bytes]](), b""
    kind = 0
    for chunk in chunks:
        for piece in reader.feed(chunk):
            raw += piece.raw
            if not piece.is_control:
                kind = piece.opcode or kind
                if (message := assembler.add(piece)) is not None:
                    found.append((kind, message))
    return found, raw


@given(MESSAGES, st.lists(st.integers(0, 4000), max_size=12), st.booleans())
def test_any_split_gives_the_same_messages(
    messages: list[tuple[bytes, list[int], int]], cuts: list[int], is_masked: bool
) -> None:
    """Messages and bytes are the same in one chunk, in any chunks, and byte by byte."""
    data = b"".join(fragments(payload, where, kind, is_masked=is_masked) for payload, where, kind in messages)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    split = [data[a:b] for a, b in itertools.pairwise(places)]
    wanted = [(kind, payload) for payload, _, kind in messages]
    for chunks in ([data], split, [data[at : at + 1] for at in range(len(data))]):
        reader = FrameReader(is_masked=is_masked)
        assert read(reader, chunks) == (wanted, data)
        assert reader.is_between_messages
        assert reader.rest() == b""


@given(st.binary(max_size=70_000), st.booleans())
def test_own_frames_are_read_by_the_library(payload: bytes, is_masked: bool) -> None:
    """What the proxy writes is a frame to others."""
    reader = FrameReader(is_masked=is_masked)
    assert read(reader, [frame(frames.TEXT, payload, is_masked=is_masked)])[0] == [(1, payload)]
    if is_masked:
        server = Protocol(SERVER, max_size=None)
        server.receive_data(frame(frames.BINARY, payload, is_masked=True))
        (event,) = server.events_received()
        assert isinstance(event, Frame)
        assert bytes(event.data) == payload


BROKEN = {
    "reserved bit": b"\xc1\x00",
    "reserved opcode": b"\x83\x00",
    "masked by a server": b"\x81\x80abcd",
    "fragmented ping": b"\x09\x00",
    "long ping": b"\x89\x7e\x00\x80",
    "continuation of nothing": b"\x80\x00",
    "message inside a message": b"\x01\x01a\x81\x01b",
    "length of 16 bits for 5": b"\x81\x7e\x00\x05hello",
    "length of 64 bits for 5": b"\x81\x7f" + b"\0" * 7 + b"\x05hello",
    "length with its top bit": b"\x82\x7f\x80" + b"\0" * 7,
}


def until_broken(chunks: list[bytes]) -> tuple[bytes, bytes, int]:
    """What was handed out, what is left, and how much was fed until then."""
    reader, raw, fed = FrameReader(is_masked=False), b"", 0
    for chunk in chunks:
        fed += len(chunk)
        try:
            for piece in reader.feed(chunk):
                raw += piece.raw
        except BrokenFrame as broken:
            return raw, broken.rest, fed
    raise AssertionError("nothing was broken")


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_broken_frames_are_told_with_their_bytes(data: bytes) -> None:
    """What was handed out and what is left are all bytes, in one chunk or byte by byte."""
    for chunks in ([data], [data[at : at + 1] for at in range(len(data))]):
        raw, rest, fed = until_broken(chunks)
        assert raw + rest == data[:fed]


def test_a_close_frame_fits() -> None:
    """A reason is cut to 123 bytes, at a character's end."""
    payload = close_frame(1008, "ä" * 100)[2:]
    assert len(payload) == 124
    assert payload[2:].decode() == "ä" * 61


def test_a_message_has_a_bound() -> None:
    """The bound is the message's, however many frames it has."""
    reader, assembler = FrameReader(is_masked=False), Assembler(10)
    first, second = reader.feed(b"\x01\x06abcdef" + b"\x80\x05ghijk")
    assembler.add(first)
    with pytest.raises(MessageTooLong):
        assembler.add(second)

"""formats.content_coding: codings undone in pieces, and never more than the bound."""

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard

from llm_proxy.formats.content_coding import Decoder, decoded

TEXT = json.dumps({"n": list(range(20_000))}).encode()
CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda body: gzip.compress(body, mtime=0),
    "deflate": zlib.compress,
    "br": lambda body: brotli.compress(body, quality=5),  # of zeros no larger than at 11, in a twentieth of the time
    "zstd": zstandard.ZstdCompressor().compress,
}
LIMIT = 4 * 1024 * 1024


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
@pytest.mark.parametrize("coding", CODINGS)
def test_pieces_of_any_size_give_the_whole(coding: str, piece_bytes: int) -> None:
    """However the network cut it."""
    body, decoder = CODINGS[coding](TEXT), Decoder(coding)
    found = b"".join(decoder.feed(body[at : at + piece_bytes]) for at in range(0, len(body), piece_bytes))
    assert (found, decoder.has_failed) == (TEXT, False)


@pytest.mark.parametrize("piece_bytes", [100, 10_000_000])
@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_several_members_are_all_read(coding: str, piece_bytes: int) -> None:
    """RFC 1952 §2.2 and RFC 8878 §3.1: members or frames one behind the other, their border in any piece."""
    compress = CODINGS[coding]
    body, decoder = compress(TEXT[:500]) + compress(TEXT[500:]), Decoder(coding)
    assert b"".join(decoder.feed(body[at : at + piece_bytes]) for at in range(0, len(body), piece_bytes)) == TEXT


def test_padding_behind_the_last_member_is_ignored() -> None:
    """As gzip's own programs do."""
    decoder = Decoder("gzip")
    assert (decoder.feed(CODINGS["gzip"](TEXT) + b"\0" * 512), decoder.has_failed) == (TEXT, False)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_stops_at_the_bound(coding: str) -> None:
    """Memory stays near the bound, whatever the data expand to."""
    bomb, decoder = CODINGS[coding](b"a" * (64 * 1024 * 1024)), Decoder(coding)
    tracemalloc.start()
    found = decoder.feed(bomb, LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == b"a" * LIMIT
    assert decoder.has_failed
    assert decoder.feed(bomb, LIMIT) == b""
    assert peak < 4 * LIMIT


@pytest.mark.parametrize("encoding", ["compress", "gzip, compress", "gzip," * 6])
def test_unknown_or_too_many_codings_give_nothing(encoding: str) -> None:
    """And no exception."""
    assert decoded(b"\x01\x02", encoding) is None

"""multipart/form-data, looked at while it passes."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_proxy.errors import LlmProxyError, ParamNotAllowed, RequestTooLarge
from llm_proxy.formats.multipart import MAX_VALUE_BYTES, FormScanner, InvalidMultipart, boundary_of
from llm_proxy.providers import ParameterRules

CASES = sorted((Path(__file__).parents[2] / "cases/multipart").glob("*.bin"))
RULES = ParameterRules({"model": ["gpt-4o"]})
EXPECTED: dict[str, type[LlmProxyError] | None] = {"ok": None, "denied": ParamNotAllowed, "refused": InvalidMultipart}


def check(name: str, value: str | None) -> None:
    """As the inspection does it."""
    assert value is not None
    RULES.check(name, value)


@pytest.mark.parametrize("piece", [1, 2, 7, 65536], ids=lambda n: f"{n} bytes")
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_forms(path: Path, piece: int) -> None:
    """ok passes, denied names a model that is not allowed, refused can be read in two ways; by any cut."""
    content = path.read_bytes()
    expected = EXPECTED[path.stem.partition("-")[0]]

    def scan() -> None:
        scanner = FormScanner(b"B7f", RULES.names, check, max_bytes=1000)
        for start in range(0, len(content), piece):
            scanner.feed(content[start : start + piece])
        scanner.finish()

    if expected is None:
        scan()
    else:
        with pytest.raises(expected):
            scan()


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ("Multipart/Form-Data; charset=utf-8 ; BOUNDARY=abc;", b"abc"),
        ('multipart/form-data; boundary="a b\'()+_,-./:=?"', b"a b'()+_,-./:=?"),
        (
            "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
            b"----WebKitFormBoundary7MA4YWxkTrZu0gW",
        ),
    ],
)
def test_the_boundary_is_read(content_type: str, boundary: bytes) -> None:
    """Quoted or not, in any case."""
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    "parameters",
    [
        "",
        "; charset=utf-8",
        "; boundary=",
        '; boundary=""',
        "; boundary=a; boundary=b",
        "; boundary*=a",
        "; boundary*0=a",
        "; boundary=a; boundary*=utf-8''b",
        "; boundary=" + "a" * 71,
        '; boundary="a',
        '; boundary="a "',
        "; boundary=a b",
    ],
)
def test_a_doubtful_boundary_is_refused(parameters: str) -> None:
    """Two parsers might take two different ones."""
    with pytest.raises(InvalidMultipart):
        boundary_of("multipart/form-data" + parameters)


def form(parts: list[tuple[str, bytes]], boundary: bytes) -> bytes:
    """As clients write it."""
    made = b"".join(
        b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (boundary, name.encode(), content)
        for name, content in parts
    )
    return made + b"--%b--\r\n" % boundary


def scan(content: bytes, cuts: list[int], boundary: bytes, **options: int) -> list[tuple[str, str | None]]:
    """What is found in `a`, fed in pieces that end at the cuts."""
    found: list[tuple[str, str | None]] = []
    scanner = FormScanner(boundary, {"a"}, lambda n, v: found.append((n, v)), max_bytes=options.get("max_bytes", 10**9))
    edges = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    for start, end in itertools.pairwise(edges):
        scanner.feed(content[start:end])
    scanner.finish()
    return found


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b"]), st.text("\r\n-Bx\u00e9", max_size=30)), min_size=1, max_size=5),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_any_content_cut_anywhere_is_found_whole(parts: list[tuple[str, str]], cuts: list[int]) -> None:
    """Line ends and pieces of the delimiter inside the content change nothing; the delimiter itself is refused."""
    boundary = b"BxB"
    encoded = [(name, text.encode()) for name, text in parts]
    content = form(encoded, boundary)
    if content.count(b"--BxB") != len(parts) + 1:
        with pytest.raises(InvalidMultipart):
            scan(content, cuts, boundary)
    else:
        assert scan(content, cuts, boundary) == [(name, text) for name, text in parts if name == "a"]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_junk_is_refused_or_read_but_never_breaks(junk: bytes, cuts: list[int]) -> None:
    """No other exception than the scanner's, and the same verdict however it is cut."""

    def verdict(at: list[int]) -> object:
        try:
            return scan(b"--B\r\n" + junk, at, b"B")
        except InvalidMultipart:
            return "refused"

    assert verdict(cuts) == verdict([])


def test_only_checked_fields_count() -> None:
    """A file of any size passes; checked fields together are bounded (413)."""
    assert scan(form([("b", b"x" * 500_000), ("a", b"yy")], b"B7f"), [], b"B7f", max_bytes=2) == [("a", "yy")]
    with pytest.raises(RequestTooLarge):
        scan(form([("a", b"yy"), ("a", b"y")], b"B7f"), [], b"B7f", max_bytes=2)


def test_a_checked_field_is_never_kept_beyond_a_megabyte() -> None:
    """Longer values are reported without their text, which matches no pattern."""
    long = b"x" * (MAX_VALUE_BYTES + 1)
    assert scan(form([("a", long), ("a", b"y")], b"B7f"), [], b"B7f") == [("a", None), ("a", "y")]

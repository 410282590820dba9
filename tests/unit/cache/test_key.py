"""Keys: no project reads another's responses, and what means the same is the same key only where it surely does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.cache.key import DEFAULT_VARY, canonical_query, canonical_target, primary_key, variant_key

TARGET = canonical_target("GET", "/v1/models", "")


def whole(project: str = "p", target: str = TARGET, fields: tuple[tuple[str, str], ...] = (), **more: object) -> str:
    """The key of a request."""
    return variant_key(primary_key(project, "openai", target, fields, **more), DEFAULT_VARY, fields)  # type: ignore[arg-type]


@given(st.text(max_size=40), st.text(max_size=40))
def test_two_projects_share_no_key(one: str, other: str) -> None:
    """The project is the first part, and no name of one can look like another and a path."""
    assert (whole(one) == whole(other)) is (one == other)
    assert whole(one).count(":") == 3


@pytest.mark.parametrize(
    ("query", "canonical"),
    [
        ("b=1&a=2", "a=2&b=1"),
        ("a=2&b=1", "a=2&b=1"),
        ("a=2&a=1", "a=2&a=1"),
        ("b=1&a=2&a=1", "a=2&a=1&b=1"),
        ("a;b&c", "a;b&c"),
        ("", ""),
    ],
)
def test_names_are_sorted_and_values_of_one_name_are_not(query: str, canonical: str) -> None:
    """Names are sorted, values keep their order: `a=2&a=1` is another question than `a=1&a=2`."""
    assert canonical_query(query) == canonical


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/v1/models?a=1", "/v1/models?a=1%20"),
        ("/v1/models/x", "/v1/models/X"),
        ("/v1/files/%41", "/v1/files/A"),
        ("/v1/models?a", "/v1/models?a="),
    ],
)
def test_paths_and_values_are_compared_byte_for_byte(one: str, other: str) -> None:
    """What the provider may tell apart, the key tells apart."""
    keys = [whole(target=canonical_target("GET", *(t.partition("?")[0], t.partition("?")[2]))) for t in (one, other)]
    assert keys[0] != keys[1]


def test_an_absent_field_is_not_an_empty_one() -> None:
    """Absent and empty give different keys."""
    assert whole() != whole(fields=(("ACCEPT", ""),))


def test_repeated_lines_are_one_list() -> None:
    """RFC 9110 §5.2; their order counts."""
    split = (("ACCEPT", "a/b"), ("ACCEPT", "c/d"))
    assert whole(fields=split) != whole(fields=split[::-1])


def test_body_and_lifetime_of_an_opted_in_post_are_in_the_key() -> None:
    """Another body, another type or another wish is another response."""
    target = canonical_target("POST", "/v1/embeddings", "")
    base = whole(target=target, digest="aa", lifetime="max=60")
    assert base == whole(target=target, digest="aa", lifetime="max=60")
    assert base != whole(target=target, digest="ab", lifetime="max=60")
    assert base != whole(target=target, digest="aa", lifetime="smax=60")
    assert base != whole(target=target, digest="aa", lifetime="max=60", fields=(("CONTENT-TYPE", "a/b"),))


def test_authorization_is_never_in_a_key() -> None:
    """Two tokens of one project share responses."""
    assert whole(fields=(("AUTHORIZATION", "Bearer a"),)) == whole(fields=(("AUTHORIZATION", "Bearer b"),))


def test_head_reads_what_get_has_stored() -> None:
    """RFC 9111 §4."""
    assert canonical_target("HEAD", "/v1/models", "") == TARGET

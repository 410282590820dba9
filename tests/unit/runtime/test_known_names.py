"""A peer that makes up names fills no memory."""

from llm_proxy.runtime.known_names import LONGEST, MOST, has_room


def test_names_are_bounded_in_number_and_length() -> None:
    """The number counts over all memories that are named."""
    names = dict.fromkeys(range(MOST - 1))
    assert has_room("x" * LONGEST, names)
    assert not has_room("x" * (LONGEST + 1))
    assert not has_room(b"x", names, {"one more"})

"""Ids are UUIDs of version 7; a client's id is accepted in one form."""

import os
import time
import uuid

import pytest

from llm_proxy.runtime.ids import accepted_id, uuid7


@pytest.mark.parametrize("value", ["a", "A-Z.0:9_", "x" * 128])
def test_usable_ids_are_taken(value: str) -> None:
    """Letters, digits and four signs."""
    assert accepted_id(value) == value


@pytest.mark.parametrize("value", [None, "", " ", "a b", "x" * 129, "ä", "a\n", "a/b"])
def test_unusable_ids_count_as_absent(value: str | None) -> None:
    """Blank ones too."""
    assert accepted_id(value) is None


def test_made_ids_are_uuids_of_version_7_and_sort_by_time() -> None:
    """RFC 9562 §5.7."""
    made = [uuid7(1700000000.0 + step) for step in range(50)]
    assert made == sorted(made)
    assert len(set(made)) == 50
    for one in made:
        assert str(uuid.UUID(one)) == one
        assert (uuid.UUID(one).version, uuid.UUID(one).variant) == (7, uuid.RFC_4122)
    assert uuid.UUID(made[0]).int >> 80 == 1700000000000


def test_an_id_without_an_instant_has_the_present_one() -> None:
    """To a few seconds."""
    assert uuid.UUID(uuid7()).int >> 80 == pytest.approx(time.time() * 1000, abs=5000)


def test_forked_processes_make_ids_of_their_own() -> None:
    """Random digits that were fetched before a fork are used by the parent alone."""
    uuid7()
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, " ".join(uuid7(0.0) for _ in range(20)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = set(os.read(read, 4096).decode().split())
    os.close(read)
    os.close(write)
    assert len(theirs) == 20
    assert theirs.isdisjoint(uuid7(0.0) for _ in range(20))

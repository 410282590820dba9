"""What the families of streams have in common: the merged response, and looking at JSON that may be anything."""

from dataclasses import dataclass
from typing import Any, Protocol

Chunk = dict[str, Any]


@dataclass(slots=True)
class Merged:
    """One response made of a stream. `text` is all that the assistant wrote, tool arguments included, for estimates."""

    response: dict[str, Any]
    text: str = ""
    is_error: bool = False


class Stream(Protocol):
    """One family's way of merging. Neither method raises, whatever the chunk holds."""

    def feed(self, name: str, chunk: Chunk) -> None:
        """Take the next chunk; `name` is its event's name."""

    def feed_tail(self, name: str, chunk: Chunk) -> None:
        """Take a chunk from after a gap: only what needs no predecessor."""

    def merged(self) -> Merged:
        """Return the response so far."""


def as_dict(value: object) -> dict[str, Any]:
    """Return the value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """Return the value if it is an array, else an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: object) -> str:
    """Return the value if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def as_index(value: object) -> int:
    """Return the value if it is a number of a place, else 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def first(known: Any, value: object) -> Any:
    """Return what is known already, else the value; an empty string or null is not knowing."""
    return known if known not in (None, "") else value


def merge_lists(known: dict[str, Any], more: object) -> None:
    """Append each array of `more` to the one of the same name."""
    for name, items in as_dict(more).items():
        if isinstance(items, list):
            place = known.setdefault(name, [])
            if isinstance(place, list):
                place.extend(items)

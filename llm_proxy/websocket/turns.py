"""Which of the running turns a provider's message belongs to."""

from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from llm_proxy.websocket.dialects.openai import CREATED, ERROR, TRANSCRIBED, ClientMessage, ServerMessage

T = TypeVar("T")


class Step(Enum):
    """What a message means for its turn."""

    NONE = "none"  # it belongs to no turn
    PART = "part"
    BEGUN = "begun"  # the provider has begun the response
    STRANGE = "strange"  # the provider has begun one that no client asked for
    ENDED = "ended"
    FAILED = "failed"  # an error in place of the response
    WHOLE = "whole"  # a turn in one message: a transcription


@dataclass(slots=True)
class Running(Generic[T]):
    """A turn that has begun. `response_id` is None until the provider has said it."""

    turn: T
    stream_id: str | None = None
    event_id: str | None = None
    response_id: str | None = None


class TurnBook(Generic[T]):
    """The running turns of one WebSocket, in the order in which they began.

    Args:
        is_realtime: Errors belong to a turn only where they name its event.
    """

    __slots__ = ("_is_realtime", "running")

    def __init__(self, *, is_realtime: bool) -> None:
        self._is_realtime = is_realtime
        self.running: list[Running[T]] = []

    def begin(self, turn: T, asked: ClientMessage | None = None, response_id: str | None = None) -> None:
        """Note a turn that a client asked for, or, with its `response_id`, one that the provider began."""
        stream_id, event_id = (None, None) if asked is None else (asked.stream_id, asked.event_id)
        self.running.append(Running(turn, stream_id, event_id, response_id))

    def take(self, message: ServerMessage) -> tuple[Step, T | None]:
        """Return what a provider's message means, and for which turn; a turn that it ends runs no more."""
        if not message.kind:
            return Step.NONE, None
        if message.kind == TRANSCRIBED:
            return Step.WHOLE, None
        found = self._find_failed(message) if message.kind == ERROR else self._find(message)
        if found is None:
            return (Step.STRANGE if message.kind == CREATED else Step.NONE), None
        if message.kind == CREATED:
            found.response_id = message.response_id
            return Step.BEGUN, found.turn
        if message.is_end or message.kind == ERROR:
            self.running.remove(found)
            return (Step.FAILED if message.kind == ERROR else Step.ENDED), found.turn
        return Step.PART, found.turn

    def end_all(self) -> list[T]:
        """Return the turns that run; none of them does afterwards."""
        turns, self.running = [entry.turn for entry in self.running], []
        return turns

    def _find(self, message: ServerMessage) -> Running[T] | None:
        running = self.running
        if message.kind == CREATED:
            waiting = [entry for entry in running if entry.response_id is None]
            return _first(waiting, message.stream_id) if waiting else None
        if message.response_id is not None:
            named = next((entry for entry in running if entry.response_id == message.response_id), None)
            if named is not None:
                return named
            running = [entry for entry in running if entry.response_id is None]
        return _first(running, message.stream_id)

    def _find_failed(self, message: ServerMessage) -> Running[T] | None:
        if not self._is_realtime:
            return _first(self.running, message.stream_id)
        if message.event_id is not None:
            return next((entry for entry in self.running if entry.event_id == message.event_id), None)
        waiting = [entry for entry in self.running if entry.response_id is None]
        return waiting[0] if waiting and message.is_busy else None


def _first(running: list[Running[T]], stream_id: str | None) -> Running[T] | None:
    """Return the oldest turn of a stream; without a stream's id, the oldest of all."""
    if stream_id is not None:
        return next((entry for entry in running if entry.stream_id == stream_id), None)
    return running[0] if running else None

"""Changes of the management plane: all of their parts are committed together, or none (docs/adr/0223)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine

from llm_proxy.db.session import write_transaction


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What the audit trail says of a change; `details` are JSON values."""

    project_id: str | None
    details: Mapping[str, Any]


def _accept(stored: Any) -> None:
    """Accept any stored state."""


class Mutation:
    """One change on behalf of a caller, inside its transaction.

    Attributes:
        connection: Rows are read and changed here.
        actor: The caller's name, for `created_by`.
        within: Ids of the projects that the caller may see; None for all.
        entries: Audit entries that must be written before the commit.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        actor: str | None = None,
        within: frozenset[str] | None = None,
        precondition: Callable[[Any], None] = _accept,
    ) -> None:
        self.connection, self.actor, self.within = connection, actor, within
        self.entries: list[AuditEntry] = []
        self._precondition = precondition
        self._follow_ups: list[Callable[[], None]] = []

    def require_match(self, stored: Any) -> None:
        """Raise PreconditionFailed unless `stored`, locked in this transaction, is what the caller has seen."""
        self._precondition(stored)

    def record(self, *, project_id: str | None, details: Mapping[str, Any]) -> None:
        """Add an audit entry of success."""
        self.entries.append(AuditEntry(project_id, details))

    def after_commit(self, follow_up: Callable[[], None]) -> None:
        """Run `follow_up` once the change is committed: invalidation of what workers remember, and events."""
        self._follow_ups.append(follow_up)

    def committed(self) -> None:
        """Run what waits for the commit, in order."""
        for follow_up in self._follow_ups:
            follow_up()


@contextmanager
def mutation(
    engine: Engine,
    *,
    actor: str | None = None,
    within: frozenset[str] | None = None,
    precondition: Callable[[Any], None] = _accept,
) -> Iterator[Mutation]:
    """Open a transaction; the end of the block commits it and runs the follow-ups, an exception rolls it back.

    Args:
        actor, within: See `Mutation`.
        precondition: Raises PreconditionFailed for a stored object that is not what the caller has seen.
    """
    with write_transaction(engine) as connection:
        change = Mutation(connection, actor=actor, within=within, precondition=precondition)
        yield change
    change.committed()

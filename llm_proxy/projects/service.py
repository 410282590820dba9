"""Create, list and change projects: each mutation one transaction, columns by name."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError

from llm_proxy.crypto import KeyRing
from llm_proxy.db import pagination
from llm_proxy.db.clock import Clock, database_now
from llm_proxy.db.listing import Listing
from llm_proxy.db.models import ProjectRow
from llm_proxy.db.mutation import Mutation
from llm_proxy.db.pagination import Order, Selection
from llm_proxy.db.session import read_transaction
from llm_proxy.errors import Conflict, ResourceNotFound
from llm_proxy.model.fields import to_columns
from llm_proxy.model.project import PROJECT_FIELDS
from llm_proxy.model.token import Revoked
from llm_proxy.projects.project import NewProject, Project, ProjectPatch

_TABLE = ProjectRow.__table__.c
SORTS = ("name", "created_at", "updated_at")


class RevokesTokens(Protocol):
    """The part of the token service that projects need."""

    def revoke_all(self, connection: Connection, project_id: str) -> Revoked:
        """Revoke a project's tokens in the caller's transaction."""


@dataclass(frozen=True, slots=True)
class ProjectFilter:
    """Which projects a list holds; `within` are the ids that the caller may see, `ids` the wanted ones; None: all."""

    search: str | None = None
    is_active: bool | None = None
    within: frozenset[str] | None = None
    ids: frozenset[str] | None = None

    def selection(self) -> Selection:
        """Return the rows."""
        query, judged = select(ProjectRow.__table__), list[ColumnElement[bool]]()
        if self.search:
            judged.append(pagination.contains(_TABLE.name, self.search))
        if self.is_active is not None:
            judged.append(_TABLE.is_active.is_(self.is_active))
        if self.ids is not None:
            query = query.where(pagination.within(_TABLE.id, self.ids))
        narrow = None if self.within is None else pagination.within(_TABLE.id, self.within)
        return Selection(query, tuple(judged), narrow)


def order_of(sort: str, *, descending: bool) -> Order:
    """Return the order by one of `SORTS`."""
    return Order(sort, _TABLE[sort], _TABLE.id, descending, is_unique=sort == "name")


BY_NAME = order_of("name", descending=False)


class ProjectService(Listing[Project]):
    """The rules of projects over the database.

    Args:
        ring: Seals provider keys.
        changed: Called with the id of each project that was changed, after the commit.
        now: The present instant; by default the database's.
    """

    def __init__(
        self,
        engine: Engine,
        ring: KeyRing,
        tokens: RevokesTokens,
        *,
        changed: Callable[[str], None] = lambda project_id: None,
        now: Clock = database_now,
    ) -> None:
        self._engine, self._ring, self._tokens, self._changed, self._now = engine, ring, tokens, changed, now

    def create(self, tx: Mutation, new: NewProject) -> Project:
        """Store a new project. Raises Conflict when the name is taken."""
        project_id = str(uuid.uuid4())
        now = self._now(tx.connection)
        values = {
            "id": project_id,
            "name": new.name,
            "api_key": self._ring.seal(new.api_key, project_id),
            "is_active": True,
            **to_columns(PROJECT_FIELDS, new.fields),
            "created_at": now,
            "updated_at": now,
            "created_by": tx.actor,
        }
        try:
            tx.connection.execute(insert(ProjectRow), values)
        except IntegrityError as error:
            raise _taken() from error
        tx.record(project_id=project_id, details={"project_name": new.name})
        return self._shown(project_row(tx.connection, project_id))

    def get(self, project_id: str) -> Project:
        """Return the project. Raises ResourceNotFound."""
        with read_transaction(self._engine) as connection:
            return self._shown(project_row(connection, project_id))

    def _listed(
        self, connection: Connection, wanted: ProjectFilter, order: Order
    ) -> tuple[Selection, Callable[[RowMapping], Project]]:
        return wanted.selection(), self._shown

    def update(self, tx: Mutation, project_id: str, patch: ProjectPatch) -> Project:
        """Write what the patch names; revoke the tokens in the same transaction when it says so.

        Raises:
            ResourceNotFound: No such project.
            PreconditionFailed: It is not what the caller has seen.
            Conflict: The name is taken.
        """
        row = project_row(tx.connection, project_id, lock=True)
        tx.require_match(self._shown(row))
        now = self._now(tx.connection)
        values = self._changes(row, patch, now)
        if values:
            self._write(tx.connection, project_id, {**values, "updated_at": now})
        details: dict[str, Any] = {"updated_fields": sorted(values), "project_name": patch.name or row["name"]}
        if patch.revokes_tokens:
            details["tokens_revoked"] = self._tokens.revoke_all(tx.connection, project_id).revoked
        tx.record(project_id=project_id, details=details)
        tx.after_commit(partial(self._changed, project_id))
        return self._shown(project_row(tx.connection, project_id))

    def revoke_tokens(self, tx: Mutation, project_id: str) -> Revoked:
        """Revoke all tokens of the project. Raises ResourceNotFound."""
        project_row(tx.connection, project_id)
        found = self._tokens.revoke_all(tx.connection, project_id)
        details = {
            "total_tokens": found.total,
            "revoked_count": found.revoked,
            "already_revoked_count": found.already,
            "failed_count": 0,
        }
        tx.record(project_id=project_id, details=details)
        tx.after_commit(partial(self._changed, project_id))
        return found

    def _changes(self, row: RowMapping, patch: ProjectPatch, now: datetime) -> dict[str, Any]:
        values = to_columns(PROJECT_FIELDS, patch.fields)
        if patch.name is not None:
            values["name"] = patch.name
        if patch.api_key is not None:
            values["api_key"] = self._ring.seal(patch.api_key, row["id"])
        if patch.is_active is not None:
            values["is_active"] = patch.is_active
            if patch.is_active != row["is_active"]:
                values["deactivated_at"] = None if patch.is_active else now
        return values

    def _write(self, connection: Connection, project_id: str, values: Mapping[str, Any]) -> None:
        try:
            connection.execute(update(ProjectRow).where(_TABLE.id == project_id).values(**values))
        except IntegrityError as error:
            raise _taken() from error

    def _shown(self, row: RowMapping) -> Project:
        return Project.from_row(row, self._ring)


def project_row(connection: Connection, project_id: str, *, lock: bool = False) -> RowMapping:
    """Return a project's row, `lock`ed for a change. Raises ResourceNotFound."""
    query = select(ProjectRow.__table__).where(pagination.equals(_TABLE.id, project_id))
    row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    if row is None:
        raise ResourceNotFound("project not found", audit={"error_type": "project not found"})
    return row


def _taken() -> Conflict:
    return Conflict("project name already exists", code="project_exists", audit={"error_type": "project_exists"})

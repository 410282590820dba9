"""A project's keys for the providers that are served side by side."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, delete, insert, select, update

from llm_proxy.crypto import KeyRing, UnopenableValue
from llm_proxy.db.clock import Clock, database_now
from llm_proxy.db.models import ProjectKeyRow, ProjectRow
from llm_proxy.db.mutation import Mutation
from llm_proxy.db.session import read_transaction
from llm_proxy.errors import BadRequest, ResourceNotFound
from llm_proxy.projects.project import check_api_key, obfuscated
from llm_proxy.projects.service import project_row

_PROJECTS, _KEYS = ProjectRow.__table__.c, ProjectKeyRow.__table__.c
_UNREADABLE = "****"


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """What may be shown of a project's key for one provider."""

    provider: str
    api_key: str  # obfuscated
    created_at: datetime
    updated_at: datetime


class ProviderKeyService:
    """The rules of these keys over the database. The default provider's key stands in the project's row.

    Args:
        ring: Seals the keys; each is tied to its row.
        providers: Names of the providers that are served, the default one first.
        changed: Called with the id of a project whose keys were changed, after the commit.
        now: The present instant; by default the database's.
    """

    def __init__(
        self,
        engine: Engine,
        ring: KeyRing,
        providers: Sequence[str],
        *,
        changed: Callable[[str], None] = lambda project_id: None,
        now: Clock = database_now,
    ) -> None:
        self._engine, self._ring, self._changed, self._now = engine, ring, changed, now
        self._default, self.providers = providers[0], tuple(providers)

    def list(self, project_id: str) -> list[ProviderKey]:
        """Return the project's keys, the default provider's first. Raises ResourceNotFound."""
        with read_transaction(self._engine) as connection:
            project = project_row(connection, project_id)
            query = select(ProjectKeyRow.__table__).where(_KEYS.project_id == project["id"]).order_by(_KEYS.provider)
            rows = connection.execute(query).mappings().all()
        found = [self._shown(row, row["provider"]) for row in rows if row["provider"] != self._default]
        return ([self._shown(project, self._default)] if project["api_key"] else []) + found

    def put(self, tx: Mutation, project_id: str, provider: str, wanted: Mapping[str, Any]) -> ProviderKey:
        """Store a key, in place of an older one.

        Raises:
            BadRequest: It can be no key, or the provider is not served.
            ResourceNotFound: No such project.
        """
        self._require_served(provider)
        api_key = wanted.get("api_key")
        if not isinstance(api_key, str) or not api_key.strip():
            raise _refused("api_key is required", "api_key")
        api_key = check_api_key(api_key, wants_sk=False)
        project = project_row(tx.connection, project_id, lock=True)
        stored = self._write(tx.connection, project["id"], provider, api_key)
        self._record(tx, project_id, provider)
        return stored

    def remove(self, tx: Mutation, project_id: str, provider: str) -> None:
        """Forget a key.

        Raises:
            BadRequest: It is the only provider's.
            ResourceNotFound: No such project, or it has no such key.
        """
        if provider == self._default and len(self.providers) == 1:
            raise _refused("the key of the only provider can be replaced, but not removed", "provider")
        project = project_row(tx.connection, project_id, lock=True)
        if not self._removed(tx.connection, project, provider):
            raise ResourceNotFound("provider key not found", audit={"error_type": "provider key not found"})
        self._record(tx, project_id, provider)

    def _record(self, tx: Mutation, project_id: str, provider: str) -> None:
        tx.record(project_id=project_id, details={"provider": provider})
        tx.after_commit(partial(self._changed, project_id))

    def _write(self, connection: Connection, project_id: str, provider: str, api_key: str) -> ProviderKey:
        now = self._now(connection)
        if provider == self._default:
            values = {"api_key": self._ring.seal(api_key, project_id), "updated_at": now}
            connection.execute(update(ProjectRow).where(_PROJECTS.id == project_id).values(**values))
            return self._shown(project_row(connection, project_id), provider)
        where = (_KEYS.project_id == project_id, _KEYS.provider == provider)
        row = connection.execute(select(ProjectKeyRow.__table__).where(*where)).mappings().one_or_none()
        if row is None:
            key_id = str(uuid.uuid4())
            values = {"id": key_id, "project_id": project_id, "provider": provider, "created_at": now}
            values |= {"api_key": self._ring.seal(api_key, key_id), "updated_at": now}
            connection.execute(insert(ProjectKeyRow), values)
        else:
            values = {"api_key": self._ring.seal(api_key, row["id"]), "updated_at": now}
            connection.execute(update(ProjectKeyRow).where(_KEYS.id == row["id"]).values(**values))
        row = connection.execute(select(ProjectKeyRow.__table__).where(*where)).mappings().one()
        return self._shown(row, provider)

    def _removed(self, connection: Connection, project: RowMapping, provider: str) -> bool:
        if provider != self._default:
            where = (_KEYS.project_id == project["id"], _KEYS.provider == provider)
            return connection.execute(delete(ProjectKeyRow).where(*where)).rowcount == 1
        if not project["api_key"]:
            return False
        values = {"api_key": "", "updated_at": self._now(connection)}
        connection.execute(update(ProjectRow).where(_PROJECTS.id == project["id"]).values(**values))
        return True

    def _require_served(self, provider: str) -> None:
        if provider not in self.providers:
            raise _refused(f"provider must be one of {', '.join(self.providers)}", "provider")

    def _shown(self, row: RowMapping, provider: str) -> ProviderKey:
        try:
            shown = obfuscated(self._ring.open(row["api_key"], row["id"]))
        except UnopenableValue:
            shown = _UNREADABLE
        return ProviderKey(provider, shown, row["created_at"], row["updated_at"])


def _refused(message: str, param: str) -> BadRequest:
    return BadRequest(message, param=param, audit={"validation_error": message})

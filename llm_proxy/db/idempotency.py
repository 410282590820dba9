"""Creations that are done once, however often they are asked for (`Idempotency-Key`)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, and_, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from llm_proxy.crypto import KeyRing, UnopenableValue, digest
from llm_proxy.db.clock import Clock, database_now
from llm_proxy.db.models import IdempotencyRow
from llm_proxy.db.session import read_transaction, write_transaction
from llm_proxy.errors import Conflict

KEPT = timedelta(hours=24)
SECRET_KEPT = timedelta(minutes=10)
ABANDONED = timedelta(minutes=2)  # a creation takes seconds: its process has died

_TABLE = IdempotencyRow.__table__.c


@dataclass(frozen=True, slots=True)
class CreationResponse:
    """The response to a creation. `secret` names the member of the body that is a secret, if there is one."""

    status: int
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    secret: str | None = None


class Claim:
    """The right to run a creation. Ends by `keep` in its transaction, by `refuse`, or by `release`."""

    def __init__(self, keys: "IdempotencyKeys", path: str, key: str) -> None:
        self._keys, self._path, self._key = keys, path, key

    def keep(self, connection: Connection, response: CreationResponse) -> None:
        """Store the response with what was created."""
        self._keys.store(connection, self._path, self._key, response)

    def refuse(self, response: CreationResponse) -> None:
        """Store a refusal, which created nothing."""
        self._keys.store(None, self._path, self._key, response)

    def release(self) -> None:
        """Nothing was answered for good: the key may be used again."""
        self._keys.drop(self._path, self._key)


class IdempotencyKeys:
    """Keys and their responses, for a day; secrets in them for ten minutes, and only where they can be sealed."""

    def __init__(self, engine: Engine, ring: KeyRing, now: Clock = database_now) -> None:
        self._engine, self._ring, self._now = engine, ring, now

    def claim(
        self, path: str, key: str, body: bytes, *, actor: str | None = None, scope: str | None = None
    ) -> Claim | CreationResponse:
        """Return the right to go on, or the response that was given before.

        Args:
            actor: The caller's name, for the record.
            scope: Tells callers apart: the same key under another scope is another key. None is the root token's.

        Raises:
            Conflict: The key came with another body, its first call still runs, or its secret is not shown again.
        """
        key, body_sha256 = _scoped(key, scope), digest(body.decode("latin-1"))
        with read_transaction(self._engine) as connection:
            now = self._now(connection)
        for _ in range(3):  # an old row that is removed may be claimed by others meanwhile
            try:
                with write_transaction(self._engine) as connection:
                    connection.execute(delete(IdempotencyRow).where(_TABLE.created_at < now - KEPT))
                    row = {"path": path, "key": key, "body_sha256": body_sha256, "actor": actor, "created_at": now}
                    connection.execute(insert(IdempotencyRow), row)
                return Claim(self, path, key)
            except IntegrityError:
                found = self._find(path, key)
            if found is None or self._took_over(found, now):
                continue
            if found["body_sha256"] != body_sha256:
                raise Conflict("idempotency key was used with another body", code="idempotency_key_reused")
            if found["status"] is None:
                break
            return self._replay(found, now)
        raise Conflict("the first call with this idempotency key still runs", code="idempotency_in_progress")

    def store(self, connection: Connection | None, path: str, key: str, response: CreationResponse) -> None:
        """Write the response, in the given transaction or its own one."""
        if connection is None:
            with write_transaction(self._engine) as own:
                self.store(own, path, key, response)
            return
        body = dict(response.body)
        if response.secret is not None and self._ring.current_id is None:
            body[response.secret] = None  # nothing secret is stored in clear
        text = json.dumps({"headers": dict(response.headers), "body": body, "secret": response.secret})
        sealed = self._ring.seal(text, _bound_to(path, key))
        connection.execute(update(IdempotencyRow).where(_is(path, key)).values(status=response.status, answer=sealed))

    def drop(self, path: str, key: str) -> None:
        """Forget a key."""
        with write_transaction(self._engine) as connection:
            connection.execute(delete(IdempotencyRow).where(_is(path, key)))

    def _find(self, path: str, key: str) -> Any:
        with read_transaction(self._engine) as connection:
            return connection.execute(select(IdempotencyRow.__table__).where(_is(path, key))).mappings().one_or_none()

    def _took_over(self, found: Any, now: datetime) -> bool:
        """Remove the claim of a process that died."""
        if found["status"] is not None or now - found["created_at"] < ABANDONED:
            return False
        with write_transaction(self._engine) as connection:
            mine = and_(_is(found["path"], found["key"]), _TABLE.status.is_(None))
            connection.execute(delete(IdempotencyRow).where(mine, _TABLE.created_at == found["created_at"]))
        return True

    def _replay(self, found: Any, now: datetime) -> CreationResponse:
        try:
            stored = json.loads(self._ring.open(found["answer"], _bound_to(found["path"], found["key"])))
        except UnopenableValue:
            raise Conflict("the first response can't be read any more", code="secret_already_shown") from None
        secret, body = stored["secret"], stored["body"]
        if secret is not None and (body.get(secret) is None or now - found["created_at"] >= SECRET_KEPT):
            shown = Conflict("the secret was shown already", code="secret_already_shown")
            shown.more = {"id": body["id"]}
            raise shown
        return CreationResponse(found["status"], stored["headers"], body)


def _scoped(key: str, scope: str | None) -> str:
    """Return the stored form; the blank in it occurs in no key of a request, so that no caller can name another's."""
    return key if scope is None else f"{digest(scope)} {digest(key)}"


def _is(path: str, key: str) -> Any:
    return and_(_TABLE.path == path, _TABLE.key == key)


def _bound_to(path: str, key: str) -> str:
    return f"{path} {key}"

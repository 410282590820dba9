"""`Idempotency-Key` on creations."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Response, request

from llm_proxy.access.caller import ROOT
from llm_proxy.db.idempotency import Claim, CreationResponse, IdempotencyKeys
from llm_proxy.db.mutation import Mutation
from llm_proxy.errors import BadRequest, LlmProxyError
from llm_proxy.web.management import parsing, rendering
from llm_proxy.web.management.audited import AuditedAction, current

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
_FORM = re.compile(r"[\x21-\x7e]{1,255}")


class Creation:
    """A creation that is done once for each `Idempotency-Key`; each time without that field.

    Attributes:
        is_due: False when the response of the first call is repeated, and nothing may be created.
    """

    def __init__(self, claim: Claim | CreationResponse | None) -> None:
        self.is_due = not isinstance(claim, CreationResponse)
        self._claim = claim if isinstance(claim, Claim) else None
        self._response = claim if isinstance(claim, CreationResponse) else None

    def keep(self, tx: Mutation, response: CreationResponse) -> None:
        """Take the response, and store it in the creation's transaction, so that neither exists without the other."""
        self._response = response
        if self._claim is not None:
            self._claim.keep(tx.connection, response)

    def refused(self, error: Exception) -> None:
        """Store a refusal, which repetitions get as well; after a fault the key may be used again."""
        if self._claim is None:
            return
        if isinstance(error, LlmProxyError) and error.status < 500:
            self._claim.refuse(CreationResponse(error.status, {}, _body(error)))
        else:
            self._claim.release()

    def response(self) -> Response:
        """Return the response, marked where it is a repetition. Raises RuntimeError before `keep`."""
        if self._response is None:
            raise RuntimeError("nothing was created")
        response = rendering.json_response(self._response.body, self._response.status, self._response.headers)
        if not self.is_due:
            response.headers[REPLAYED] = "true"
        return response


@contextmanager
def idempotent(keys: IdempotencyKeys, attempt: AuditedAction) -> Iterator[Creation]:
    """Claim the request's key for the block, which creates only when the creation is due.

    Raises:
        BadRequest: The field has no valid form.
        Conflict: As `IdempotencyKeys.claim`.
    """
    claim = _claim(keys)
    creation = Creation(claim)
    if not creation.is_due:
        attempt.succeeded(replayed=True)
    try:
        yield creation
    except Exception as error:
        creation.refused(error)
        raise


def _claim(keys: IdempotencyKeys) -> Claim | CreationResponse | None:
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not _FORM.fullmatch(key):
        raise BadRequest(f"invalid {HEADER}", param=HEADER, audit={"validation_error": f"invalid {HEADER}"})
    caller = current().caller
    scope = None if caller == ROOT else caller.identity or caller.actor
    return keys.claim(request.path.rstrip("/"), key, parsing.raw_body(), actor=caller.actor, scope=scope)


def _body(refused: LlmProxyError) -> dict[str, Any]:
    return {"error": refused.message} | ({"code": refused.code} if refused.code is not None else {})

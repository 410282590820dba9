"""`Idempotency-Key` on creations."""

import re
from collections.abc import Callable
from typing import Any

from flask import Response, request
from sqlalchemy import Connection

from llm_proxy.access.caller import ROOT
from llm_proxy.db.idempotency import Answer, Claim, IdempotencyKeys
from llm_proxy.errors import BadRequest, LlmProxyError
from llm_proxy.web.management import answers, inputs
from llm_proxy.web.management.call import Attempt, current

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
_FORM = re.compile(r"[\x21-\x7e]{1,255}")

Keep = Callable[[Connection, Answer], None]


def once(keys: IdempotencyKeys, attempt: Attempt, create: Callable[[Keep], Answer]) -> Response:
    """Run `create`, or answer as the first time.

    `create` hands its response to what it is given, inside its transaction, so that neither exists without the other.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return _response(create(lambda connection, answer: None))
    if not _FORM.fullmatch(key):
        raise BadRequest(f"invalid {HEADER}", param=HEADER, audit={"validation_error": f"invalid {HEADER}"})
    caller = current().caller
    scope = None if caller == ROOT else caller.identity or caller.actor
    claim = keys.claim(request.path.rstrip("/"), key, inputs.raw_body(), actor=caller.actor, scope=scope)
    if isinstance(claim, Answer):
        attempt.succeeded(replayed=True)
        response = _response(claim)
        response.headers[REPLAYED] = "true"
        return response
    return _response(_first(claim, create))


def _first(claim: Claim, create: Callable[[Keep], Answer]) -> Answer:
    try:
        return create(claim.keep)
    except LlmProxyError as refused:
        if refused.status >= 500:
            claim.release()
        else:
            claim.refuse(Answer(refused.status, {}, _body(refused)))
        raise
    except Exception:
        claim.release()
        raise


def _body(refused: LlmProxyError) -> dict[str, Any]:
    return {"error": refused.message} | ({"code": refused.code} if refused.code is not None else {})


def _response(answer: Answer) -> Response:
    return answers.answer(answer.body, answer.status, answer.headers)

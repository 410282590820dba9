"""Verification of the audit trail while the server serves: one at a time in a worker, a few records after the other."""

import logging
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent.event import Event
from sqlalchemy import Engine

from llm_proxy.audit.verify import Report, verify_table

_FAULTS: Final = 20  # told in the record of a verification
_log = logging.getLogger(__name__)


class AuditCheck:
    """Runs verifications in the background."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._done: Event | None = None

    @property
    def is_running(self) -> bool:
        """Whether this worker verifies the trail now."""
        return self._done is not None

    def begin(self, then: Callable[[Report], None]) -> bool:
        """Begin a verification; False where one runs already. `then` is told what was found."""
        if self._done is not None:
            return False
        self._done = Event()
        gevent.spawn(self._run, self._done, then)
        return True

    def wait(self, longest_s: float) -> bool:
        """Wait for the end of the verification that runs; return whether there is none any more."""
        done = self._done
        return done is None or done.wait(longest_s)

    def _run(self, done: Event, then: Callable[[Report], None]) -> None:
        try:
            then(verify_table(self._engine, rest=lambda: gevent.sleep(0)))
        except Exception:
            _log.exception("the audit trail was not verified")
        finally:
            self._done = None
            done.set()


def details(report: Report) -> dict[str, Any]:
    """Return a report as the record of the verification has it."""
    return {
        "records": report.records,
        "writers": report.writers,
        "without_chain": report.without_chain,
        "faults": [fault.to_json() for fault in report.faults[:_FAULTS]],
    }

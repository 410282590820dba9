"""Past events delivered again, by hand (`llm-proxy events replay`)."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from llm_proxy.dispatcher.backends.base import Verdict
from llm_proxy.dispatcher.options import Options
from llm_proxy.dispatcher.payload import Payload
from llm_proxy.dispatcher.process import make_backend, make_transformer
from llm_proxy.dispatcher.retry import pause_s
from llm_proxy.events.bus import Entry
from llm_proxy.events.event import Event


@dataclass(slots=True)
class Done:
    """What became of the events. `skipped` were of methods that are not forwarded."""

    delivered: int = 0
    skipped: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """Not delivered, for whatever reason."""
        return self.errors.total()

    def to_json(self) -> dict[str, Any]:
        """Return the result."""
        return {"delivered": self.delivered, "skipped": self.skipped, "failed": self.failed}


class Replay:
    """Delivers events in batches, each tried as often as a dispatcher would before it holds. Raises BackendError."""

    def __init__(self, options: Options) -> None:
        self._settings = options.dispatcher
        self._backend, self._transformer = make_backend(options), make_transformer(options)

    def deliver(self, events: Iterable[Event]) -> Done:
        """All of them, in order."""
        done, batch = Done(), list[Payload]()
        try:
            for event in events:
                if not self._transformer.wants(event):
                    done.skipped += 1
                    continue
                batch.append(self._transformer.payload(event, Entry(event.event_id or event.request_id, None)))
                if len(batch) >= self._settings.batch_size:
                    self._send(batch, done)
                    batch = []
            self._send(batch, done)
        finally:
            self._backend.close()
        return done

    def _send(self, batch: list[Payload], done: Done) -> None:
        """Send; a refused batch is halved, down to the events that are at fault."""
        for attempt in range(self._settings.retry_attempts + 1):
            results = self._backend.send(batch)
            done.delivered += sum(result.verdict is Verdict.DELIVERED for result in results)
            refused = [place for place, result in enumerate(results) if result.verdict is Verdict.PERMANENT]
            if len(refused) > 1 and all(results[place].is_whole for place in refused):
                half = len(refused) // 2
                self._send([batch[place] for place in refused[:half]], done)
                self._send([batch[place] for place in refused[half:]], done)
            else:
                done.errors.update(results[place].error for place in refused)
            again = [place for place, result in enumerate(results) if result.verdict is Verdict.TRANSIENT]
            held = [place for place, result in enumerate(results) if result.verdict is Verdict.CONFIGURATION]
            done.errors.update(results[place].error for place in held)
            if not again:
                return
            if attempt == self._settings.retry_attempts:
                done.errors.update(results[place].error for place in again)
                return
            time.sleep(pause_s([results[place] for place in again], attempt, self._settings.retry_backoff_s))
            batch = [batch[place] for place in again]

"""From exchanges that ended to sums: taps while they run, everything else after their last byte, off their way."""

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any, Final, NamedTuple

import gevent

from llm_proxy import metrics
from llm_proxy.formats.content_coding import decoded
from llm_proxy.formats.prompt import Prompt, read_prompt
from llm_proxy.formats.reading import Reading, read
from llm_proxy.formats.request_body import model_of
from llm_proxy.formats.tokens import Estimator, by_size
from llm_proxy.formats.usage import MAX_COUNT, Usage
from llm_proxy.model.token import TokenSnapshot
from llm_proxy.runtime.clock import utc_now
from llm_proxy.runtime.short_turns import breathe, long_work
from llm_proxy.sanitize import printable
from llm_proxy.usage.beat_sums import BeatSums
from llm_proxy.usage.budgets import Budgets
from llm_proxy.usage.model_names import OTHER, ModelNames, holds_secret
from llm_proxy.usage.prices import Price, Prices
from llm_proxy.usage.rollup import Key, Rollup
from llm_proxy.usage.tap import REQUEST_BYTES, Tap, type_and_coding

UNKNOWN = "unknown"  # in place of a model's name
BEAT_S = 0.1
FLUSH_S = 1.0
_PAUSE_S = 0.005  # between writes that are urgent
_CLOSE_LIMIT_S, _CUT_LIMIT_S = 5.0, 1.0  # for a database that does not answer
_MAX_PRICED = 1000  # names of models whose price is remembered
_GENERATES = re.compile(
    r"(?:^|/)(?:v[0-9][a-z0-9]*|openai|deployments/[^/]+)/"
    r"(?:chat/completions|completions|responses|realtime|messages|embeddings|complete)$"
    r"|/chat/completions$"
    r"|(?::|%3A)(?:generateContent|streamGenerateContent|embedContent|batchEmbedContents)$",
    re.IGNORECASE,
)
_NO_TEXT = re.compile(r"\s*(?:(?:audio|image|video|font)/|application/(?:octet-stream|pdf|zip|gzip))", re.IGNORECASE)
_log = logging.getLogger(__name__)


class Metered:
    """What is kept of one exchange, and what it used once that was read.

    Attributes:
        asked: The request's body as far as it is kept, in pieces.
        asked_bytes: Its length, as far as it has passed or is known.
        tap: The response's, where it can tell something.
        provider: The provider's name.
        path_model: The model that the path names.
        request_room: How many bytes of a body that is held on disk are of use.
    """

    request_room: Final = REQUEST_BYTES
    __slots__ = (
        "_read",
        "asked",
        "asked_bytes",
        "last",
        "measure",
        "media_type",
        "method",
        "path",
        "path_model",
        "provider",
        "request_encoding",
        "request_type",
        "result",
        "status",
        "tap",
        "token",
    )

    def __init__(
        self, token: TokenSnapshot, method: str, path: str, request_type: str, request_encoding: str = ""
    ) -> None:
        self.token, self.method, self.path = token, method, path
        self.request_type, self.request_encoding = request_type, request_encoding
        self.provider = ""
        self.path_model: str | None = None
        self.asked: list[bytes] = []
        self.asked_bytes, self.last = 0, b""
        self.tap: Tap | None = None
        self.media_type = ""
        self.status: int | None = None
        self._read: tuple[int, Prompt] | None = None
        self.measure: Callable[[Metered], Result] | None = None
        self.result: Result | None = None

    def counted(self) -> dict[str, int] | None:
        """Return what the exchange used, as its event shows it. Asked for after the last byte; never raises."""
        result = self.result or (self.measure(self) if self.measure is not None else None)
        usage = result.usage if result is not None else None
        return usage.to_json() if usage is not None else None

    def request_data(self, data: bytes) -> None:
        """Keep the first pieces of the request's body, and the last, where a form may name its model."""
        if self.asked_bytes < REQUEST_BYTES:
            self.asked.append(data)
        elif data:
            self.last = data
        self.asked_bytes += len(data)

    def request_rest(self, size: int) -> None:
        """Count what is sent without being shown."""
        self.asked_bytes += size

    def response_started(self, status: int | None, fields: Iterable[tuple[str, str]]) -> Tap | None:
        """Take the response's status and fields; return a tap for its body, None where it tells nothing.

        The type is a provider's hint: where a model generates, whatever it answers is read.
        """
        self.status = status
        if status is None or not 200 <= status < 300:
            return None
        media_type, encoding = type_and_coding(fields)
        if not _NO_TEXT.match(media_type) or self.generates:
            self.media_type = media_type.lower()
            self.tap = Tap(encoding)
        return self.tap

    @property
    def generates(self) -> bool:
        """Whether a model reads the request and writes the response."""
        return self.method == "POST" and _GENERATES.search(self.path) is not None

    @property
    def kept(self) -> bytes:
        """The request's first bytes."""
        return self.asked[0] if len(self.asked) == 1 else b"".join(self.asked)

    @property
    def ends(self) -> bytes:
        """What is kept of the request, its content coding undone."""
        kept = self.kept + self.last
        return decoded(kept, self.request_encoding, REQUEST_BYTES) or b"" if self.request_encoding else kept

    def model(self) -> str | None:
        """Return the model that the request names, as far as its body is kept; None where it names none."""
        try:
            return _asked_model(self)
        except Exception:  # the body is a client's: whatever cannot be read names no model
            return None

    def prompt(self) -> Prompt:
        """Return what the request says; it is read again only when more of it has come."""
        if self._read is None or self._read[0] != self.asked_bytes:
            self._read = self.asked_bytes, read_prompt(self.kept, self.request_encoding, self.asked_bytes)
        return self._read[1]


class Result(NamedTuple):
    """What an exchange used. `once`: id of the object that the usage belongs to.

    It must not refer to the exchange, which refers to it: what refers to itself stays in memory until the garbage
    collector comes.
    """

    model: str | None
    usage: Usage | None
    once: str | None


class Meter:
    """Counts what exchanges used.

    Args:
        count_tokens: Told of each exchange's model tokens (limits a minute).
        has_providers: Whether several providers are served.
        spent: Told of what a project used: prompt tokens, completion tokens, 10⁻⁹ USD.
        is_urgent: Whether what a token uses is to be read and written at once: its budget is nearly used up.
        today: The day that usage belongs to.
    """

    def __init__(
        self,
        rollup: Rollup,
        prices: Prices,
        estimator: Estimator,
        *,
        count_tokens: Callable[[Any, int], None] = lambda token, tokens: None,
        has_providers: bool = False,
        spent: Callable[[str, int, int, int], None] = lambda project_id, prompt, completion, cost: None,
        is_urgent: Callable[[Any], bool] = lambda token: False,
        today: Callable[[], date] = lambda: utc_now().date(),
    ) -> None:
        self._rollup, self._prices, self._estimator = rollup, prices, estimator
        self._is_urgent, self._today = is_urgent, today
        self._sums = BeatSums(rollup, count_tokens, spent, has_providers=has_providers)
        self._priced: dict[tuple[str, str], tuple[str, Price]] = {}
        self._urgent_writes = threading.Event()
        self._ended: deque[Metered] = deque()
        self._guard = threading.Lock()
        self._greenlets: list[gevent.Greenlet] = []
        self._flushed_at = time.monotonic()
        self._is_closed = threading.Event()
        self._names = ModelNames()
        self._told_unpriced: set[str] = set()

    def begin(
        self,
        token: TokenSnapshot,
        method: str,
        path: str,
        request_type: str | None,
        request_encoding: str | None = None,
    ) -> Metered:
        """Begin to count an exchange that is about to be sent."""
        metered = Metered(token, method, path, request_type or "", request_encoding or "")
        metered.measure = self._result
        return metered

    def ended(self, metered: Metered) -> None:
        """End a charged exchange; its usage is read later, unless a budget waits for it."""
        self._ended.append(metered)
        if self._is_urgent(metered.token):
            self.settle()
            self._urgent_writes.set()

    def settle(self) -> None:
        """Read everything that has ended so far, for decisions that need it."""
        while self._ended:
            self._read_next()
        self._sums.end(self._today())

    def start(self) -> None:
        """Read and write in greenlets of this worker; a database that is slow must not let what is unread pile up."""
        self._estimator.load()
        self._greenlets = [gevent.spawn(self._run_reads), gevent.spawn(self._run_writes)]

    def beat(self) -> None:
        """Read what has ended; write it down once a second. Never raises. For threads, where no greenlet runs."""
        self.settle()
        if time.monotonic() - self._flushed_at >= FLUSH_S:
            self._rollup.flush()
            self._flushed_at = time.monotonic()

    def close(self, *, cut: bool = False) -> None:
        """Read and write everything for the last time. `cut`: the database is waited for a second at most."""
        self._is_closed.set()
        gevent.killall(self._greenlets)
        self.settle()
        is_written = False
        with gevent.Timeout(_CUT_LIMIT_S if cut else _CLOSE_LIMIT_S, False):
            while not self._rollup.flush():
                time.sleep(0.2)
            is_written = True
        if not is_written:
            _log.error("usage of the last seconds is lost: the database does not take it")

    def _run_reads(self) -> None:
        while not self._is_closed.is_set():
            gevent.sleep(BEAT_S)
            if self._ended:
                self._read_in_turns()

    def _read_in_turns(self) -> None:
        """Read what has ended by now; a budget that cannot wait may read it meanwhile."""
        with long_work():
            for _ in range(len(self._ended)):
                self._read_next()
                breathe()
        self._sums.end(self._today())

    def _run_writes(self) -> None:
        while not self._is_closed.is_set():
            is_urgent = self._urgent_writes.wait(FLUSH_S)
            self._urgent_writes.clear()
            self._rollup.flush()
            if is_urgent:
                gevent.sleep(_PAUSE_S)

    def _read_next(self) -> None:
        """Read the oldest. It stays in its place meanwhile, so that it is not lost where this greenlet ends."""
        try:
            metered = self._ended[0]
        except IndexError:
            return
        result = self._result(metered)
        name, price = UNKNOWN, None
        try:
            name, price = self._named(metered, result)  # may read the request, in short turns
        except Exception:
            _log.exception("an exchange's model could not be told")
        if self._taken(metered):
            self._add(metered, result, name, price)

    def _taken(self, metered: Metered) -> bool:
        """Take the oldest away; False where it is another one by now."""
        with self._guard:
            is_oldest = bool(self._ended) and self._ended[0] is metered
            if is_oldest:
                self._ended.popleft()
        return is_oldest

    def _result(self, metered: Metered) -> "Result":
        """Read an exchange, once for its sums and its event."""
        if metered.result is None:
            metered.result = self._measure(metered)
        return metered.result

    def _measure(self, metered: Metered) -> "Result":
        reading, usage, once = Reading(), None, None
        try:
            reading, usage, once = self._measured(metered)
        except Exception:
            _log.exception("an exchange's usage could not be read: it counts by its size")
            usage = _of_size(metered)
        return Result(reading.model, usage, once)

    def _measured(self, metered: Metered) -> tuple[Reading, Usage | None, str | None]:
        """Return what the response says, what counts, and the id of the object that it counts with."""
        if metered.tap is None:
            return Reading(), None, None
        body = metered.tap.finish()
        reading = read(body, metered.media_type)
        if reading.has_absurd_usage:
            _log.warning("a provider reported a usage that is not believed", extra={"path": metered.path[:200]})
        usage, once = reading.usage, reading.once
        is_get = metered.method in ("GET", "HEAD")
        if (once is None and is_get) or (once is not None and not reading.is_final):
            return reading, None, None  # it was counted with the POST that made it, or will be when it is finished
        if usage is None and once is None and metered.generates:
            usage = self._estimator.estimate(reading, metered.prompt())
            if not body.is_readable or reading.is_opaque:
                usage.completion_tokens = by_size(metered.tap.received_bytes)
        return reading, usage, once

    def _add(self, metered: Metered, result: Result, name: str, price: Price | None) -> None:
        usage, once, token = result.usage, result.once, metered.token
        cost = None if price is None else price.nano_usd(usage) if usage is not None else 0
        if once is None:
            self._sums.add(token, name, usage, cost, metered.provider)
        else:
            key = Key(self._today(), token.project_id, token.id, name, metered.provider)
            self._sums.add_once(token, key, usage, cost, once)

    def _named(self, metered: Metered, result: Result) -> tuple[str, Price | None]:
        """Return the name that an exchange is summed by, and the model's price."""
        model, provider = result.model, metered.provider
        known = self._priced.get((provider, model)) if model is not None else None
        if known is not None:
            return known
        model = model or _asked_model(metered)
        price = self._prices.of(model, provider)
        if model is not None and price is not None and model == result.model and len(self._priced) < _MAX_PRICED:
            self._priced[provider, model] = printable(model), price
        is_listed = price is not None
        if price is None and result.usage is not None:
            price = self._prices.of(_asked_model(metered), provider)
        is_good = metered.status is not None and 200 <= metered.status < 300
        if not model or not (is_good or price):  # a name without any successful response is no model
            model = UNKNOWN
        model = printable(model)
        if not is_listed and model != UNKNOWN:
            is_secret = holds_secret(model, metered.token.project)
            model = OTHER if is_secret else self._names.bounded(model, metered.token.id, self._today())
        if price is None and result.usage is not None and Budgets.needs_price(metered.token):
            price = self._dearest(model, metered)
        return model, price

    def _dearest(self, model: str, metered: Metered) -> Price | None:
        """Return the price that counts where a budget of money applies and the model has none."""
        metrics.UNPRICED.inc()
        price = self._prices.dearest(metered.provider)
        if model not in self._told_unpriced and len(self._told_unpriced) < _MAX_PRICED:
            self._told_unpriced.add(model)
            about = {"model": model, "token_id": metered.token.id, "path": metered.path[:200]}
            _log.warning("a model without a price counts at the dearest price against a budget", extra=about)
        return price


def _of_size(metered: Metered) -> Usage | None:
    """Return an estimate by nothing but the sizes of both bodies, where a model was at work."""
    if metered.tap is None or not metered.generates:
        return None
    prompt = by_size(max(metered.asked_bytes, len(metered.kept)))
    return Usage(min(prompt, MAX_COUNT), min(by_size(metered.tap.received_bytes), MAX_COUNT), is_estimated=True)


def _asked_model(metered: Metered) -> str | None:
    """Return the model that the request names."""
    if metered.path_model is not None:
        return metered.path_model
    if metered.method in ("GET", "HEAD") or not metered.asked:
        return None
    return metered.prompt().model or model_of(metered.request_type, metered.ends)

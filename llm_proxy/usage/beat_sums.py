"""What exchanges used within one beat, added up by token, model and provider.

A busy token has hundreds of exchanges between two beats. Each costs a few additions here; the rollup, the metrics and
the limits of model tokens are told the sums at the beat's end.
"""

import threading
from collections.abc import Callable
from datetime import date

from llm_proxy import metrics
from llm_proxy.formats.usage import Usage
from llm_proxy.model.token import TokenSnapshot
from llm_proxy.money import NANO
from llm_proxy.usage.rollup import Key, Rollup, Sums


class _Line:
    """The sums of one token, model and provider."""

    __slots__ = ("provider", "sums", "token", "unpriced")

    def __init__(self, token: TokenSnapshot, provider: str) -> None:
        self.token, self.provider, self.sums, self.unpriced = token, provider, Sums(), 0

    def add(self, usage: Usage | None, cost_nano_usd: int | None) -> None:
        """Add one exchange."""
        sums = self.sums
        sums.requests += 1
        if cost_nano_usd is not None:
            sums.cost_nano_usd = (sums.cost_nano_usd or 0) + cost_nano_usd
        if usage is None:
            return
        sums.prompt_tokens += usage.prompt_tokens
        sums.completion_tokens += usage.completion_tokens
        sums.cached_tokens += usage.cached_tokens
        sums.reasoning_tokens += usage.reasoning_tokens
        sums.estimated += usage.is_estimated
        self.unpriced += cost_nano_usd is None


class BeatSums:
    """The sums of a worker's beat.

    Args:
        rollup: Gets them at the end of the beat.
        count_tokens: Told of each token's model tokens then (limits a minute).
        spent: Told of a project's prompt tokens, completion tokens and money (10⁻⁹ USD) then.
        has_providers: Several providers are served: metrics are also kept for each.
    """

    def __init__(
        self,
        rollup: Rollup,
        count_tokens: Callable[[TokenSnapshot, int], None],
        spent: Callable[[str, int, int, int], None] = lambda project_id, prompt, completion, cost: None,
        *,
        has_providers: bool = False,
    ) -> None:
        self._rollup, self._count_tokens, self._spent = rollup, count_tokens, spent
        self._has_providers = has_providers
        self._lines: dict[tuple[str, str, str], _Line] = {}
        self._guard = threading.Lock()

    def add(
        self, token: TokenSnapshot, model: str, usage: Usage | None, cost_nano_usd: int | None, provider: str = ""
    ) -> None:
        """Add one exchange; None as its cost: the model has no price."""
        key = token.id, model, provider
        with self._guard:
            line = self._lines.get(key)
            if line is None:
                line = self._lines[key] = _Line(token, provider)
            line.add(usage, cost_nano_usd)

    def add_once(self, token: TokenSnapshot, key: Key, usage: Usage | None, cost: int | None, once: str) -> None:
        """Add an exchange whose usage belongs to an object that counts once, whichever responses show it."""
        line = _Line(token, key.provider)
        line.add(usage, cost)
        self._tell(line)
        self._rollup.add(key, line.sums, once=once)

    def end(self, day: date) -> None:
        """Hand the sums on, as those of that day."""
        with self._guard:
            lines, self._lines = self._lines, {}
        for (token_id, model, provider), line in lines.items():
            self._rollup.add(Key(day, line.token.project_id, token_id, model, provider), line.sums)
            self._tell(line)

    def _tell(self, line: _Line) -> None:
        sums, provider = line.sums, line.provider if self._has_providers else ""
        for kind, count in (
            ("prompt", sums.prompt_tokens),
            ("completion", sums.completion_tokens),
            ("cached", sums.cached_tokens),
            ("reasoning", sums.reasoning_tokens),
        ):
            if count:
                metrics.model_tokens[kind].inc(count)
                if provider:
                    metrics.PROVIDER_MODEL_TOKENS.labels(provider, kind).inc(count)
        if line.unpriced:
            metrics.UNPRICED.inc(line.unpriced)
        if sums.cost_nano_usd:
            metrics.COST_USD.inc(sums.cost_nano_usd / NANO)
            if provider:
                metrics.PROVIDER_COST_USD.labels(provider).inc(sums.cost_nano_usd / NANO)
        cost_nano_usd = sums.cost_nano_usd or 0
        if sums.total_tokens or cost_nano_usd:
            self._spent(line.token.project_id, sums.prompt_tokens, sums.completion_tokens, cost_nano_usd)
        if sums.total_tokens:
            self._count_tokens(line.token, sums.total_tokens)

"""Sums of one exchange, for tests of what adds them up."""

from llm_proxy.formats.usage import Usage
from llm_proxy.usage.rollup import Sums


def sums_of(usage: Usage, cost_nano_usd: int | None) -> Sums:
    """Return what one request with this usage adds."""
    return Sums(
        1,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
        int(usage.is_estimated),
        cost_nano_usd,
    )

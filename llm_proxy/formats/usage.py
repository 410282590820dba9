"""Model tokens as providers report them: one table of spellings by API family, and the one reader of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_COUNT = 2**31 - 1  # of one exchange: more is no count, and its price would not fit a column


@dataclass(slots=True)
class Usage:
    """Model tokens of one exchange."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # part of prompt_tokens
    reasoning_tokens: int = 0  # part of completion_tokens
    is_estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """The sum that budgets and limits count."""
        return self.prompt_tokens + self.completion_tokens

    def to_json(self) -> dict[str, int]:
        """Return the counts by name, with `estimated` 1 where they are an estimate."""
        counts = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
            "reasoning_tokens": self.reasoning_tokens,
        }
        return {**counts, "estimated": 1} if self.is_estimated else counts

    @classmethod
    def from_json(cls, counts: Mapping[str, Any]) -> "Usage | None":
        """Return what `to_json` wrote, of this version or an earlier one; None where there are no counts."""
        prompt, completion = _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))
        if prompt is None and completion is None:
            return None
        cached, reasoning = _count(counts.get("cached_tokens")), _count(counts.get("reasoning_tokens"))
        return cls(prompt or 0, completion or 0, cached or 0, reasoning or 0, counts.get("estimated") == 1)


Name = str | tuple[str, str]  # of a member, or of a member's member


@dataclass(frozen=True, slots=True)
class Spelling:
    """One API family's names; of several the first that is there counts.

    Attributes:
        prompt, completion: The counts themselves.
        cached: Read from a cache.
        reasoning: Spent on thinking.
        total: The sum as the provider sees it; it decides what is part of what.
        beside_prompt: Counts that the family's `prompt` does not hold.
        has_reasoning_beside: Whether the family's `completion` does not hold the reasoning.
    """

    prompt: str
    completion: tuple[str, ...]
    cached: tuple[Name, ...]
    reasoning: tuple[Name, ...]
    total: str = "total_tokens"
    beside_prompt: tuple[str, ...] = ()
    has_reasoning_beside: bool = False


_CACHE_READ, _CACHE_WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"
SPELLINGS = (
    Spelling(  # OpenAI's chat, completions, embeddings; DeepSeek, Moonshot, xAI, Mistral, Groq, OpenRouter
        prompt="prompt_tokens",
        completion=("completion_tokens",),
        cached=(
            ("prompt_tokens_details", "cached_tokens"),
            "prompt_cache_hit_tokens",
            "cached_tokens",
            _CACHE_READ,
        ),
        reasoning=(("completion_tokens_details", "reasoning_tokens"), "reasoning_tokens"),
    ),
    Spelling(  # OpenAI's responses, images, transcriptions; Anthropic's messages, which count caches beside the input
        prompt="input_tokens",
        completion=("output_tokens",),
        cached=(("input_tokens_details", "cached_tokens"), ("input_token_details", "cached_tokens"), _CACHE_READ),
        reasoning=(("output_tokens_details", "reasoning_tokens"),),
        beside_prompt=(_CACHE_READ, _CACHE_WRITTEN),
    ),
    Spelling(  # Gemini's usageMetadata
        prompt="promptTokenCount",
        completion=("candidatesTokenCount", "responseTokenCount"),
        cached=("cachedContentTokenCount",),
        reasoning=("thoughtsTokenCount",),
        total="totalTokenCount",
        beside_prompt=("toolUsePromptTokenCount",),
        has_reasoning_beside=True,
    ),
    Spelling(  # Amazon Bedrock's Converse
        prompt="inputTokens",
        completion=("outputTokens",),
        cached=("cacheReadInputTokens",),
        reasoning=(),
        total="totalTokens",
        beside_prompt=("cacheReadInputTokens", "cacheWriteInputTokens"),
    ),
    Spelling(  # gateways that answer as Vercel's SDK spells it
        prompt="promptTokens",
        completion=("completionTokens",),
        cached=("cachedPromptTokens",),
        reasoning=("reasoningTokens",),
        total="totalTokens",
    ),
    Spelling(  # Ollama's /api/chat and /api/generate
        prompt="prompt_eval_count",
        completion=("eval_count",),
        cached=(),
        reasoning=(),
    ),
)
_MAIN_COUNTS = tuple(name for spelling in SPELLINGS for name in (spelling.prompt, *spelling.completion))
_INNER = ("tokens", "billed_units")
_OPENAI_INPUT_DETAILS = "input_tokens_details"


def usage_of(counts: Mapping[str, Any]) -> Usage | None:
    """Return a provider's counts in the proxy's terms; None when it has none (seconds of audio), or absurd ones."""
    spelling, prompt, completion = _spelling(counts)
    if prompt is None or completion is None:
        if has_absurd_counts(counts):
            return None
        if spelling is None:
            return _without_spelling(counts)
    assert spelling is not None  # with both counts there is one
    total = _count(counts.get(spelling.total))
    cached, reasoning = _first(counts, spelling.cached) or 0, _first(counts, spelling.reasoning) or 0
    prompt = prompt or 0
    if spelling.beside_prompt:
        prompt += _beside_prompt(counts, spelling, prompt + (completion or 0), total)
    if completion is None:
        completion = max(0, (total or 0) - prompt)
    elif reasoning and (spelling.has_reasoning_beside or _is_beside(prompt, completion, reasoning, total)):
        completion += reasoning
    if prompt > MAX_COUNT or completion > MAX_COUNT:
        return None
    return Usage(prompt, completion, min(cached, prompt), min(reasoning, completion))


def _without_spelling(counts: Mapping[str, Any]) -> Usage | None:
    """Return the counts that stand a level deeper, as Cohere's do, else the sum alone; None when there is neither."""
    inner = [found for name in _INNER if isinstance(found := counts.get(name), dict)]
    for deeper in inner:
        if _spelling(deeper)[0] is not None and (usage := usage_of(deeper)) is not None:
            return usage
    totals = (_count(holder.get("total_tokens")) for holder in (*inner, counts))
    return next((Usage(total) for total in totals if total is not None), None)


def _spelling(counts: Mapping[str, Any]) -> tuple[Spelling | None, int | None, int | None]:
    """Return the family whose counts are there, and both; of several families the first that is not all zeros."""
    found: tuple[Spelling | None, int | None, int | None] = None, None, None
    for spelling in SPELLINGS:
        prompt, completion = _count(counts.get(spelling.prompt)), _first(counts, spelling.completion)
        if prompt or completion:
            return spelling, prompt, completion
        if found[0] is None and (prompt is not None or completion is not None):
            found = spelling, prompt, completion
    return found


def _beside_prompt(counts: Mapping[str, Any], spelling: Spelling, sum_without: int, total: int | None) -> int:
    """Return the tokens of the prompt that the family counts beside it, where it really does."""
    extra = sum(_count(counts.get(name)) or 0 for name in spelling.beside_prompt)
    is_inside = total == sum_without or _OPENAI_INPUT_DETAILS in counts
    return 0 if is_inside and total != sum_without + extra else extra


def _is_beside(prompt: int, completion: int, reasoning: int, total: int | None) -> bool:
    """Return whether reasoning is counted beside the completion, as xAI does, and not inside it."""
    return reasoning > 0 and (total == prompt + completion + reasoning or reasoning > completion)


def has_absurd_counts(counts: Mapping[str, Any]) -> bool:
    """Return whether a count is one that no exchange can have."""
    return any(isinstance(value := counts.get(name), int | float) and value > MAX_COUNT for name in _MAIN_COUNTS)


def _count(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_COUNT else None


def _first(counts: Mapping[str, Any], names: tuple[Name, ...]) -> int | None:
    for name in names:
        if isinstance(name, str):
            value = counts.get(name)
        else:
            holder = counts.get(name[0])
            value = holder.get(name[1]) if isinstance(holder, dict) else None
        if value is not None and (count := _count(value)) is not None:
            return count
    return None

"""What a response says and what it costs, decided by the request alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_proxy_simulator.plan import Plan

_TEXT = (
    "This answer comes from the simulated provider that runs beside the proxy , "
    "word by word , so that you can watch a stream arrive ."
)
_VOCABULARY = tuple(_TEXT.replace(" ,", ",").replace(" .", ".").split())
DEFAULT_EVENTS = len(_VOCABULARY)


def words_of(value: Any) -> int:
    """Words in all texts of a JSON value: the simulator's tokens. Numbers in lists count as one each."""
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, Mapping):
        return sum(words_of(item) for key, item in value.items() if key not in ("role", "type"))
    if isinstance(value, list):
        return sum(words_of(item) for item in value)
    return 1 if isinstance(value, int) and not isinstance(value, bool) else 0


@dataclass(frozen=True, slots=True)
class Counts:
    """The words of a response and the counts that its usage shows."""

    words: tuple[str, ...]
    prompt: int
    completion: int
    cached: int
    reasoning: int
    is_cut: bool

    @classmethod
    def of(cls, prompt: Any, asked: Mapping[str, Any], plan: Plan) -> "Counts":
        """Return counts for a request; its limit on completion tokens is kept, the plan's numbers win."""
        wanted = DEFAULT_EVENTS if plan.events is None else plan.events
        names = ("max_completion_tokens", "max_output_tokens", "maxOutputTokens", "max_tokens")
        limit = next((asked[name] for name in names if isinstance(asked.get(name), int)), wanted)
        number = max(0, min(wanted, limit))
        words = tuple(_VOCABULARY[index % len(_VOCABULARY)] + " " for index in range(number))
        usage = plan.usage or {}
        return cls(
            words=words,
            prompt=usage.get("prompt", words_of(prompt)),
            completion=usage.get("completion", number),
            cached=usage.get("cached", 0),
            reasoning=usage.get("reasoning", 0),
            is_cut=number < wanted,
        )

    @property
    def text(self) -> str:
        """The whole response."""
        return "".join(self.words).rstrip()

    @property
    def finish_reason(self) -> str:
        """Why it ended."""
        return "length" if self.is_cut else "stop"

    def chat_usage(self) -> dict[str, Any]:
        """`usage` of chat completions and completions."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning, "audio_tokens": 0},
        }

    def response_usage(self) -> dict[str, Any]:
        """`usage` of the responses API."""
        return {
            "input_tokens": self.prompt,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": self.completion,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.prompt + self.completion,
        }

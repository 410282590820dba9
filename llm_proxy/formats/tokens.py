"""Estimates of model tokens where the provider reports none: with tiktoken's files from a folder, else by characters.

Nothing is ever downloaded; an estimate is marked as one wherever it is shown, and never fails: what cannot be read
counts by its size.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llm_proxy.formats.prompt import Prompt
from llm_proxy.formats.reading import Reading
from llm_proxy.formats.usage import MAX_COUNT, Usage
from llm_proxy.runtime.short_turns import breathe

_O200K_STARTS = ("o1", "o3", "o4", "gpt-4.1", "gpt-5", "chatgpt-4o")
_O200K_PARTS = ("gpt-4o", "omni")
_ENCODINGS = ("o200k_base", "cl100k_base")
_MOST_CHARACTERS = 200_000  # beyond it a tokenizer holds the loop up for longer than its exactness is worth
_CHARACTERS_AT_ONCE = 4096  # given to a tokenizer: a millisecond of text
_log = logging.getLogger(__name__)

Count = Callable[[str], int]


def by_characters(text: str) -> int:
    """Return a quarter of the characters, rounded up."""
    return -(-len(text) // 4)


def by_size(size_bytes: int) -> int:
    """Return the tokens of so many bytes of text: a quarter, rounded up."""
    return -(-size_bytes // 4)


def encoding_name(model: str) -> str:
    """Return the encoding of a model by its name."""
    lowered = model.lower()
    is_new = lowered.startswith(_O200K_STARTS) or any(part in lowered for part in _O200K_PARTS)
    return "o200k_base" if is_new else "cl100k_base"


class Estimator:
    """Counts texts.

    Args:
        folder: TIKTOKEN_CACHE_DIR; None: by characters.
    """

    def __init__(self, folder: Path | str | None) -> None:
        self._folder = None if folder is None else str(folder)
        self._counts: dict[str, Count] = {}

    def load(self) -> None:
        """Read the encodings' files now: a second that would stop everything else later. Never raises."""
        if self._folder is None:
            return
        if find_spec("tiktoken") is None:
            _log.warning("tokens are estimated by characters: TIKTOKEN_CACHE_DIR needs the extra llm-proxy[tiktoken]")
            return
        for name in _ENCODINGS:
            self._count_for(name)

    def estimate(self, reading: Reading, prompt: Prompt | None) -> Usage:
        """Return the usage of an exchange whose response reports none. Never raises.

        Args:
            prompt: What was asked; None where it is not known.
        """
        model = reading.model or (prompt.model if prompt is not None else None)
        completion = round(self.count(reading.texts, model) * reading.scale)
        if prompt is None:
            return Usage(0, min(completion, MAX_COUNT), is_estimated=True)
        if prompt.is_readable:
            asked = round(self.count(prompt.texts, model) * prompt.scale) + prompt.token_ids
        else:
            asked = by_size(prompt.total_bytes)
        return Usage(min(asked, MAX_COUNT), min(completion, MAX_COUNT), is_estimated=True)

    def count(self, texts: Iterable[str], model: str | None) -> int:
        """Return the tokens of all texts together."""
        text = "".join(texts)
        if not text:
            return 0
        if self._folder is None or len(text) > _MOST_CHARACTERS:
            return by_characters(text)
        try:
            return self._count_for(encoding_name(model or ""))(text)
        except Exception:  # a tokenizer's panic on odd text
            return by_characters(text)

    def _count_for(self, name: str) -> Count:
        if name not in self._counts:
            assert self._folder is not None
            self._counts[name] = tiktoken_count(name, self._folder) or by_characters
        return self._counts[name]


def tiktoken_count(name: str, folder: str) -> Count | None:
    """Return a counter of that encoding; None when it cannot be had from this machine alone."""
    try:
        tiktoken: Any = import_module("tiktoken")  # an extra: may be absent
        loading: Any = import_module("tiktoken.load")
    except ImportError:
        return None

    def refuse(_path: str) -> bytes:
        raise OSError("nothing is downloaded")

    os.environ["TIKTOKEN_CACHE_DIR"] = folder
    loading.read_file = refuse
    try:
        encoding = tiktoken.get_encoding(name)
    except Exception as exc:  # a missing or damaged file, or a version that works otherwise
        _log.warning("tokens are estimated by characters: no encoding %s in TIKTOKEN_CACHE_DIR (%s)", name, exc)
        return None

    def count(text: str) -> int:
        return sum(len(encoding.encode(part, disallowed_special=())) for part in _parts(text))

    return count


def _parts(text: str) -> Iterator[str]:
    """Yield the text in parts that are split before a blank, where encodings split it, too."""
    start = 0
    while start < len(text):
        breathe()
        end = start + _CHARACTERS_AT_ONCE
        blank = text.rfind(" ", start + 1, end) if end < len(text) else -1
        end = blank if blank > 0 else end
        yield text[start:end]
        start = end

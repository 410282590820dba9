"""What a request asks of a model: read from its body as far as it is kept."""

from dataclasses import dataclass, field
from typing import Any

from llm_proxy.formats.content_coding import decoded
from llm_proxy.formats.lenient_json import loads_object
from llm_proxy.formats.texts import prompt_texts, texts_of_cut_json, token_ids

_MAX_EXPANDED_BYTES = 4 * 1024 * 1024
_MAX_READ_BYTES = 320 * 1024  # what is kept of a plain body; longer ones count by what is read of them


@dataclass(slots=True)
class Prompt:
    """What is known of a request's prompt.

    Attributes:
        document: The body; None where it is no JSON object, or not kept whole.
        texts: What the model is given to read.
        token_ids: Tokens that the request gives as numbers.
        scale: By how much the whole is longer than what is kept.
        total_bytes: The body's length, its content coding undone as far as that is known.
        is_readable: False where nothing could be made of it but its size.
    """

    document: dict[str, Any] | None = None
    texts: list[str] = field(default_factory=list)
    token_ids: int = 0
    scale: float = 1.0
    total_bytes: int = 0
    is_readable: bool = True

    @property
    def model(self) -> str | None:
        """The model that the request names."""
        model = self.document.get("model") if self.document is not None else None
        return model if isinstance(model, str) and model else None


def read_prompt(kept: bytes, encoding: str = "", total_bytes: int = 0) -> Prompt:
    """Read a request's body. Never raises.

    Args:
        kept: Its first bytes, as they were sent.
        encoding: Its `Content-Encoding`.
        total_bytes: The whole's length as it was sent, where that is more than what is kept.
    """
    if not kept:
        return Prompt()
    scale = max(1.0, total_bytes / len(kept))
    content = decoded(kept, encoding, _MAX_EXPANDED_BYTES)
    if content is None:
        return Prompt(total_bytes=max(len(kept), total_bytes), is_readable=False)
    size = round(len(content) * scale)
    if len(content) > _MAX_READ_BYTES:
        content = content[:_MAX_READ_BYTES]
        scale = size / _MAX_READ_BYTES
    document = loads_object(content) if scale == 1.0 else None
    if document is not None:
        return Prompt(document, prompt_texts(document), token_ids(document), total_bytes=size)
    if content[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"{":
        return Prompt(total_bytes=size, is_readable=False)
    texts, is_text = texts_of_cut_json(content)
    return Prompt(texts=texts, scale=scale if is_text else 1.0, total_bytes=size, is_readable=bool(texts))

"""llm-proxy: a transparent gateway to OpenAI-style APIs that hands out withering tokens."""

__version__ = "1.0.0"

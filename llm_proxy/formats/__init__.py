"""Formats of what passes through: event streams, content codings, lenient JSON, usage, texts and their token counts.

Pure functions over bytes and plain values, shared by usage, events, the cache and the dispatcher.
"""

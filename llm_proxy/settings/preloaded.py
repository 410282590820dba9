"""The settings that a server's master has checked, for the workers that it forks.

A worker is a fork of the master: what the master put here is exactly what the worker finds, also when the master
replaces a dead worker later on. Nothing is parsed twice, and a reload that was refused leaves the old object in place.
"""

from llm_proxy.settings.load import Loaded

_handed_over: Loaded | None = None


def hand_over(loaded: Loaded) -> Loaded | None:
    """Keep `loaded` for workers that are forked from now on; returns what was there before, for undoing a reload."""
    global _handed_over
    before, _handed_over = _handed_over, loaded
    return before


def handed_over() -> Loaded | None:
    """Return what the master has checked; None outside a server."""
    return _handed_over

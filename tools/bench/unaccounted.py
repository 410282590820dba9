"""The whole proxy with nothing in the place of accounting: what its absence saves is what it costs."""

from types import SimpleNamespace
from typing import Any

from llm_proxy.app import create_app
from llm_proxy.forwarding.pipeline import Pipeline
from llm_proxy.forwarding.reporters import UsageRecorder

_CALLS = ["check", "reserve", "commit", "release", "touch", "count_hit", "forget"]
_CALLS += ["cut_streams", "watch_sockets", "start", "sync", "close"]
_begin = Pipeline.__init__


def _nothing(*about: Any, **more: Any) -> None:
    """Stands in for every call."""


def _without_meter(self: Pipeline, *parts: Any, **named: Any) -> None:
    taps = [make for make in named["tap_factories"] if not isinstance(make.__self__, UsageRecorder)]
    _begin(self, *parts, **{**named, "tap_factories": taps})


Pipeline.__init__ = _without_meter  # type: ignore[method-assign]
app = create_app()
vars(app.services)["quota"] = SimpleNamespace(**dict.fromkeys(_CALLS, _nothing))

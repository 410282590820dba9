"""Our configuration without what must be checked and migrated first: the server layer alone, and a quicker start."""

import sys
import types

boot = types.ModuleType("llm_proxy.boot")
boot.StartRefused = type("StartRefused", (Exception,), {})
boot.check = lambda loaded: list(loaded.faults)
boot.notes = lambda settings: ([], [])
boot.prepare = lambda settings: None
sys.modules["llm_proxy.boot"] = boot

from llm_proxy.gunicorn_conf import *  # noqa: E402, F403

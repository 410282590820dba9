"""Our configuration without what must be checked and migrated first: the server layer alone, and a quicker start."""

import sys
import types
from typing import Any

preflight: Any = types.ModuleType("llm_proxy.preflight")
preflight.StartRefused = type("StartRefused", (Exception,), {})
preflight.check = preflight.refusal = lambda loaded: list(loaded.faults)
preflight.notes = lambda settings: ([], [])
preflight.prepare = lambda settings: None
sys.modules["llm_proxy.preflight"] = preflight

from llm_proxy.server import loaded_code  # noqa: E402

vars(loaded_code)["PARTS"] = ("llm_proxy.server.worker",)

from llm_proxy.gunicorn_conf import *  # noqa: E402, F403

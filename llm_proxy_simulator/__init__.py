"""A provider that is not there: OpenAI-shaped responses, scripted faults, and a witness of what was received.

bin/up serves it when there is no provider key; tests and bench put it behind the proxy. It imports nothing from the
rest of the package, so that what it saw and said is evidence. Requests are steered by rules (a file, or the control
resource) or one by one, with the field `X-Simulate`; docs/simulator.md lists both.
"""

from llm_proxy_simulator.plan import Plan, PlanError, Rule, read_rules
from llm_proxy_simulator.server import Simulator

__all__ = ["Plan", "PlanError", "Rule", "Simulator", "read_rules"]

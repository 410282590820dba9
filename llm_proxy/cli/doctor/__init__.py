"""`llm-proxy doctor`: what is wrong with this installation, and what to do about it.

Each module looks at one side and yields findings with a stable code. A check changes nothing, needs no server, and ends
within seconds whatever it meets.
"""

from llm_proxy.cli.doctor.command import doctor

__all__ = ["doctor"]

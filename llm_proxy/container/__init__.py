"""The parts of one process, each made when it is first asked for: nothing is opened before the fork, or for a command
that needs none of it."""

from llm_proxy.container.process import Container

__all__ = ["Container"]

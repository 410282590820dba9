"""What the server layer calls on the application besides the application itself."""

from dataclasses import dataclass

from llm_proxy.server.state import ServerState


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that the application never saw.

    `method` and `target` are None when the request line was not understood; `target` has the query.
    """

    status: int
    code: str
    request_id: str
    client_addr: str
    method: str | None
    target: str | None
    duration_s: float


class AppHooks:
    """What an application's attribute `hooks` is called for; here each call does nothing.

    What a hook raises is logged and changes nothing, but for `started`.
    """

    def started(self, state: ServerState) -> None:
        """In the worker, after the fork, before it serves. Raising ends the worker."""

    def draining(self) -> None:
        """SIGTERM was seen; exchanges go on."""

    def cut(self) -> None:
        """Cut running exchanges: the drain's time is over, or a second signal came."""

    def refused(self, refusal: Refusal) -> None:
        """Report that the server answered in the application's place."""

    def stopped(self, *, cut: bool) -> None:
        """After the last exchange: write down everything. After a cut there is about half a second for it."""

    def reopen(self) -> None:
        """SIGUSR1: files may have been rotated."""

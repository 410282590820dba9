"""Processes that live and end with their parent."""

import ctypes
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from types import FrameType
from typing import IO, NoReturn

from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.ports import is_serving
from llm_proxy.settings import ServerSettings

_PR_SET_PDEATHSIG = 1
_START_DEADLINE_S = 60.0
_POLL_S = 0.02


class Children:
    """Processes by name. Each has its own session: a Ctrl-C reaches the parent alone, which then stops them."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.is_serving = False  # whether the server has been ready, and handles SIGINT

    def start(self, name: str, command: list[str], variables: Mapping[str, str]) -> None:
        """Start one; what it prints goes to stderr, but for the first line that `first_line` wants."""
        wants_line = name != "server"
        self._processes[name] = subprocess.Popen(  # noqa: S603  (this interpreter)
            command,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if wants_line else sys.stderr,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )

    def first_line(self, name: str) -> str:
        """Return the first line that it prints. Raises CommandError when it ends instead."""
        process = self._processes[name]
        pipe: IO[bytes] | None = process.stdout
        assert pipe is not None
        ready, _, _ = select.select([pipe], [], [], _START_DEADLINE_S)
        line = pipe.readline().decode().strip() if ready else ""
        if not line:
            raise CommandError(f"the {name} did not start")
        return line

    def require_alive(self) -> None:
        """Raise CommandError when one has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise CommandError(f"the {name} ended by itself (exit code {process.returncode}); see above")

    def wait(self) -> NoReturn:
        """Return never: raises CommandError when one ends by itself."""
        while True:
            self.require_alive()
            time.sleep(0.5)

    def hurry(self, number: int, frame: FrameType | None) -> None:
        """Cut what still runs: a further signal came while stopping."""
        for process in self._processes.values():
            _send(process, signal.SIGINT)

    def stop(self) -> None:
        """End all of them, the server first and at once, so that its last exchanges still have their provider."""
        for process in reversed(self._processes.values()):
            # SIGINT ends the server without a drain; an interpreter that still starts would print a traceback.
            _send(process, signal.SIGINT if self.is_serving else signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _send(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is None:
        process.send_signal(number)


def _end_with_parent() -> None:
    """In the child: SIGTERM when the parent is gone, however it went (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def wait_until_ready(children: Children, settings: ServerSettings) -> None:
    """Return when /ready says 200. Raises CommandError when a process ends, or after a minute."""
    deadline = time.monotonic() + _START_DEADLINE_S
    while not is_serving(settings.listen_addr, "/ready", is_tls=settings.enable_tls):
        children.require_alive()
        if time.monotonic() > deadline:
            raise CommandError("the server does not become ready; see above")
        time.sleep(_POLL_S)
    children.is_serving = True

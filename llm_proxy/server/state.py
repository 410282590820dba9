"""What a worker tells its application about the server."""

from dataclasses import dataclass, field
from typing import Literal

Phase = Literal["serving", "grace", "draining", "retired"]


@dataclass(slots=True)
class ServerState:
    """One a worker process; the application keeps a reference and reads `phase` when it wants to know.

    `grace`: SIGTERM was seen, the listener is still open. `draining`: the listener is closed, running exchanges finish.
    `retired`: a newer generation serves, this one only finishes; it is as ready as before.
    """

    worker_connections: int
    workers: int
    phase: Phase = field(default="serving")

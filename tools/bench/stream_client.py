"""Opens many streams at once and times each event. Run as a program: PORT TOKEN STREAMS EVENTS INTERVAL_MS GAP_MS.

Prints one JSON object: delays in µs from the provider's write to the client's read, times to the head, and what was
lost. Also `open`, on its own line and before, once every stream has got an event: the moment to look at memory.
"""

import json
import re
import select
import socket
import sys
import time

from payload import STREAM_BODY, raw_request

_EVENT = re.compile(rb'"n":([0-9]+),"t":([0-9]+)\}\n\n')


class Stream:
    """One stream: what has come of it, and whether its end is true."""

    __slots__ = ("asked_ns", "ended", "events", "head_ns", "is_in_order", "socket", "tail")

    def __init__(self, opened: socket.socket) -> None:
        self.socket, self.tail = opened, b""
        self.asked_ns = time.monotonic_ns()
        self.head_ns = self.events = 0
        self.is_in_order, self.ended = True, False

    def take(self, delays_ns: list[int]) -> None:
        """Read what has arrived."""
        data = self.socket.recv(65536)
        now = time.monotonic_ns()
        if not data:
            self.ended = True
            return
        if not self.head_ns:
            self.head_ns = now
        data = self.tail + data
        position = 0
        for match in _EVENT.finditer(data):
            self.is_in_order = self.is_in_order and int(match[1]) == self.events
            self.events += 1
            delays_ns.append(now - int(match[2]))
            position = match.end()
        self.tail = data[position:][-512:]
        if self.tail.endswith(b"0\r\n\r\n") and b"[DONE]" in self.tail:
            self.ended = True


def run(port: int, token: str, streams: int, events: int, interval_ms: float, gap_ms: float) -> dict[str, object]:
    """Open them one after the other and read until all have ended, or nothing has come for 15 s."""
    request = raw_request(port, token, STREAM_BODY, f"?events={events}&interval_ms={interval_ms:g}")
    poll = select.epoll()
    open_streams: dict[int, Stream] = {}
    every: list[Stream] = []
    delays_ns: list[int] = []
    is_open_told = False
    next_open, last_data = time.monotonic(), time.monotonic()
    while (len(every) < streams or open_streams) and time.monotonic() - last_data < 15:
        now = time.monotonic()
        if len(every) < streams and now >= next_open:
            next_open += gap_ms / 1000
            opened = socket.create_connection(("127.0.0.1", port))
            stream = Stream(opened)
            opened.sendall(request)
            every.append(stream)
            open_streams[opened.fileno()] = stream
            poll.register(opened, select.EPOLLIN)
        wait_s = max(0.0, next_open - time.monotonic()) if len(every) < streams else 0.5
        for number, _ in poll.poll(wait_s):
            stream = open_streams[number]
            stream.take(delays_ns)
            last_data = time.monotonic()
            if stream.ended:
                del open_streams[number]
                stream.socket.close()
        if not is_open_told and len(every) == streams and all(stream.events for stream in every):
            is_open_told = True
            print("open", flush=True)
    if not is_open_told:
        print("open", flush=True)
    return {
        "delays_us": [delay / 1000 for delay in delays_ns],
        "heads_us": [(stream.head_ns - stream.asked_ns) / 1000 for stream in every if stream.head_ns],
        "events": sum(stream.events for stream in every),
        "whole": sum(s.ended and s.is_in_order and s.events == events and b"[DONE]" in s.tail for s in every),
        "streams": streams,
    }


if __name__ == "__main__":
    _, *numbers = sys.argv
    print(json.dumps(run(int(numbers[0]), numbers[1], *map(int, numbers[2:4]), *map(float, numbers[4:6]))))

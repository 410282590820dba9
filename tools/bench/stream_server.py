"""The streaming provider: answers each request with a run of timed events. Run as a program: PORT.

The query says how many and how often: `?events=40&interval_ms=50`. Each event carries the monotonic nanosecond at
which it was written (a clock that all processes of a machine share) and its number. One thread, one epoll.
"""

import heapq
import re
import select
import socket
import sys
import time
from urllib.parse import parse_qs

HEAD = (
    b"HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nServer: bench\r\nContent-Type: text/event-stream\r\n"
    b"Cache-Control: no-cache\r\nx-request-id: req_stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)


class Connection:
    """One client and the stream that it asked for."""

    __slots__ = ("buffer", "due", "interval_s", "left", "number", "socket")

    def __init__(self, accepted: socket.socket) -> None:
        self.socket, self.buffer = accepted, b""
        self.left = self.number = 0
        self.due = self.interval_s = 0.0

    def is_asked(self) -> bool:
        """Whether a whole request has come; takes it."""
        head, separator, rest = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return False
        length = int(found[1]) if (found := _LENGTH.search(head)) else 0
        if len(rest) < length:
            return False
        self.buffer = rest[length:]
        query = parse_qs(head.split(b" ", 2)[1].decode().partition("?")[2])
        self.left, self.number = int(query.get("events", ["1"])[0]), 0
        self.interval_s = float(query.get("interval_ms", ["50"])[0]) / 1000
        return True

    def send_event(self) -> None:
        """Send the next event as its own chunk; behind the last one, the end."""
        data = (
            b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o",'
            b'"choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}],"n":%d,"t":%d}\n\n'
            % (self.number, time.monotonic_ns())
        )
        self.number += 1
        self.left -= 1
        end = b"" if self.left else b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
        self.socket.send(b"%x\r\n%b\r\n%b" % (len(data), data, end))


def serve(port: int) -> None:
    """Until killed."""
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    connections: dict[int, Connection] = {}
    due: list[tuple[float, int, int]] = []  # when, descriptor, event number: stale entries are skipped

    def drop(number: int) -> None:
        connections.pop(number).socket.close()

    while True:
        wait_s = max(0.0, due[0][0] - time.monotonic()) if due else 1.0
        for number, _ in poll.poll(wait_s):
            if number == listener.fileno():
                accepted, _ = listener.accept()
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                poll.register(accepted, select.EPOLLIN)
                connections[accepted.fileno()] = Connection(accepted)
                continue
            connection = connections[number]
            try:
                data = connection.socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                drop(number)
                continue
            connection.buffer += data
            if connection.is_asked():
                if b"GET " in data[:4]:  # the bench asks whether the server is up
                    connection.socket.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    continue
                connection.socket.send(HEAD)
                connection.due = time.monotonic() + connection.interval_s
                heapq.heappush(due, (connection.due, number, 0))
        now = time.monotonic()
        while due and due[0][0] <= now:
            _, number, event = heapq.heappop(due)
            found = connections.get(number)
            if found is None or found.number != event:
                continue
            try:
                found.send_event()
            except OSError:
                drop(number)
                continue
            if found.left:
                found.due += found.interval_s
                heapq.heappush(due, (found.due, number, found.number))


if __name__ == "__main__":
    serve(int(sys.argv[1]))

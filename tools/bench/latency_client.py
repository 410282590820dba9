"""One connection, one request after the other. Prints a JSON list of µs.

Run as a program: PORT TOKEN REQUESTS FIELDS, the last a JSON list of [name, value]."""

import json
import re
import socket
import sys
import time

from payload import raw_request

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


def run(port: int, token: str, requests: int, fields: list[tuple[str, str]]) -> list[float]:
    """Time from the send to the last byte of each response. Raises RuntimeError for one that is not 200."""
    request = raw_request(port, token, more=fields)
    found = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(requests):
            started = time.perf_counter_ns()
            connection.sendall(request)
            response = connection.recv(65536)
            while not _is_whole(response):
                more = connection.recv(65536)
                if not more:
                    raise RuntimeError(f"connection closed inside {response[:200]!r}")
                response += more
            found.append((time.perf_counter_ns() - started) / 1000)
            if not response.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"not 200: {response[:400]!r}")
    return found


def _is_whole(response: bytes) -> bool:
    head, separator, body = response.partition(b"\r\n\r\n")
    if _CHUNKED.search(head):
        return body.endswith(b"\r\n0\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(separator) and length is not None and len(body) >= int(length[1])


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4]))))

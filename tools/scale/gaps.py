"""Watch a running server while it tidies up: `python -m tools.scale.gaps http://127.0.0.1:8080 [--seconds N]`.

A stream is read through the proxy, and `/live` is asked for again and again; the longest gaps are shown each minute, in
ms. MANAGEMENT_TOKEN is read from the environment. The provider must stream at short intervals for that long, as
`llm-proxy simulate-provider --interval 20ms --events 100000` does.
"""

import argparse
import http.client
import os
import threading
import time
from urllib.parse import urlsplit

import orjson

LIMIT_MS = 100.0


class Gaps:
    """The longest times between two signs of life."""

    def __init__(self) -> None:
        self._at, self.longest_ms, self.signs, self.over = time.perf_counter(), 0.0, 0, 0

    def begin(self) -> None:
        """Start the clock."""
        self._at = time.perf_counter()

    def sign(self) -> None:
        """Note a sign of life."""
        now = time.perf_counter()
        gap_ms, self._at = (now - self._at) * 1000, now
        self.longest_ms, self.signs = max(self.longest_ms, gap_ms), self.signs + 1
        self.over += gap_ms > LIMIT_MS


class Server:
    """The proxy under watch."""

    def __init__(self, url: str) -> None:
        self._url, self._secret = urlsplit(url), os.environ["MANAGEMENT_TOKEN"]

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection."""
        return http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=60)

    def _made(self, path: str, body: object) -> dict[str, str]:
        connection = self.connect()
        fields = {"Authorization": f"Bearer {self._secret}", "Content-Type": "application/json"}
        connection.request("POST", path, orjson.dumps(body), fields)
        made: dict[str, str] = orjson.loads(connection.getresponse().read())
        return made

    def bearer(self) -> str:
        """Return a new token of a new project."""
        name = f"gaps {time.time()}"
        project = self._made("/manage/projects", {"name": name, "api_key": "sk-simulated-provider-key"})
        return self._made("/manage/tokens", {"project_id": project["id"], "duration_minutes": 1440})["token"]

    def stream(self, bearer: str, gaps: Gaps) -> None:
        """Read a stream to its end."""
        connection = self.connect()
        body = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
        fields = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", orjson.dumps(body), fields)
        response = connection.getresponse()
        if response.status != 200:
            raise SystemExit(f"the stream is refused with {response.status}: {response.read(500)!r}")
        gaps.begin()
        while response.read1(65536):
            gaps.sign()

    def ask(self, gaps: Gaps) -> None:
        """Ask for `/live` all the time."""
        connection = self.connect()
        while True:
            gaps.begin()
            connection.request("GET", "/live")
            connection.getresponse().read()
            gaps.sign()
            time.sleep(0.02)


def main() -> None:
    """Watch; show the longest gap of each minute and of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=600.0)
    asked = parser.parse_args()
    server, stream, live = Server(asked.url), Gaps(), Gaps()
    threading.Thread(target=server.stream, args=(server.bearer(), stream), daemon=True).start()
    threading.Thread(target=server.ask, args=(live,), daemon=True).start()
    until, longest = time.monotonic() + asked.seconds, {"stream": 0.0, "/live": 0.0}
    while time.monotonic() < until:
        time.sleep(min(60.0, max(0.0, until - time.monotonic())))
        for name, gaps in (("stream", stream), ("/live", live)):
            longest[name] = max(longest[name], gaps.longest_ms)
            print(f"{name:8} {gaps.signs:8} signs, longest {gaps.longest_ms:8.1f} ms, {gaps.over} over", flush=True)
            gaps.longest_ms, gaps.signs, gaps.over = 0.0, 0, 0
    print(", ".join(f"{name}: longest {ms:.1f} ms" for name, ms in longest.items()))


if __name__ == "__main__":
    main()

"""The image's health check: finds out what this container runs, and asks that (exit 0: well, 1: not).

Knows three commands by what the entrypoint noted: the proxy and the admin UI answer `/health`, the dispatcher touches a
file with each turn of its loop. Anything else is well as long as it runs.
"""

import os
import re
import ssl
import sys
import time
import urllib.request
from pathlib import Path

TEMPORARY = Path("/tmp")  # noqa: S108  (where the entrypoint and the dispatcher write)
HEARTBEAT_AGE_S = 60.0
TRUE = {"1", "t", "true", "y", "yes", "on"}


def flag(words: list[str], *names: str) -> str | None:
    """Return the value of a flag, as `--name value` or `--name=value`; the last one counts, None where it is absent."""
    found = None
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in names:
            found = value if equals else "".join(words[index + 1 : index + 2])
    return found


def url(address: str, *, is_tls: bool) -> str:
    """`/health` of a server that listens on `:8080`, `host:8080` or `[::1]:8080`, asked from inside."""
    host, _, port = address.rpartition(":")
    if not re.fullmatch(r"[0-9]+", port):
        raise ValueError(f"not a port: {address}")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104
    return f"http{'s' if is_tls else ''}://{host}:{port}/health"


def is_answering(target: str) -> bool:
    """Whether `/health` answers 200. The certificate is not looked at: its name is not localhost's."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    with opener.open(target, timeout=8) as answer:
        return bool(answer.status == 200)


def is_well(words: list[str]) -> bool:
    """Whether the command that runs here is well."""
    match words[:1]:
        case ["server"]:
            address = flag(words, "--addr") or os.environ.get("LISTEN_ADDR") or ":8080"
            if address.startswith("unix:"):
                return Path(address.removeprefix("unix:")).is_socket()
            return is_answering(url(address, is_tls=os.environ.get("ENABLE_TLS", "").strip().lower() in TRUE))
        case ["admin"]:
            address = flag(words, "--listen") or os.environ.get("ADMIN_UI_LISTEN_ADDR") or ":8081"
            return is_answering(url(address, is_tls=False))
        case ["dispatcher"] if not words[1:] or words[1].startswith("-"):
            return time.time() - (TEMPORARY / "llm-proxy-dispatcher.alive").stat().st_mtime < HEARTBEAT_AGE_S
    return True


def main() -> int:
    """Exit code of the check; what is wrong goes to the container's health log."""
    note = TEMPORARY / "llm-proxy.command"
    words = note.read_text().split("\n")[:-1] if note.exists() else []
    try:
        return 0 if is_well(words) else 1
    except (OSError, ValueError) as error:
        print(f"{' '.join(words[:1])}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())

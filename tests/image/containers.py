"""Containers of the built image: processes in its root, on their own network that has nothing but loopback."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from image.builder import Image

_LOOPBACK = """
import fcntl, socket, struct
with socket.socket() as s:
    request = struct.pack("16sH14s", b"lo", 0, b"")
    flags, = struct.unpack_from("H", fcntl.ioctl(s, 0x8913, request), 16)
    fcntl.ioctl(s, 0x8914, struct.pack("16sH14s", b"lo", flags | 1, b""))
"""
_GET = """
import json, sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], headers=json.loads(sys.argv[3]), method=sys.argv[2])
request.data = sys.argv[4].encode() or None
try:
    with urllib.request.urlopen(request, timeout=10) as answer:
        print(answer.status, answer.read().decode(), sep="\\n", end="")
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode(), sep="\\n", end="")
except OSError as error:
    print(0, error, sep="\\n", end="")
"""


@dataclass
class Container:
    """One running container; what it printed is in `log`."""

    process: subprocess.Popen[bytes]
    log: Path

    def stop(self, limit_s: float = 40) -> int:
        """SIGTERM, then the exit code. Kills past the limit, and then the code is never 0."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def printed(self) -> str:
        return self.log.read_text()


@dataclass
class Pod:
    """A network namespace in which containers of the image run beside each other."""

    image: Image
    holder: int
    folder: Path
    containers: list[Container] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    def inside(self, command: list[str]) -> list[str]:
        """The command line, run in this network."""
        return ["nsenter", f"--target={self.holder}", "--net", *command]

    def start(self, *args: str, env: dict[str, str] | None = None, uid: int = 100, gid: int = 101) -> Container:
        """A container with the image's entrypoint and these arguments."""
        return self.spawn(self.image.start(*args, env=env, uid=uid, gid=gid))

    def spawn(self, command: list[str]) -> Container:
        """Any process in this network; ended with the pod."""
        log = self.folder / f"{len(self.containers)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(self.inside(command), stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        container = Container(process, log)
        self.containers.append(container)
        return container

    def run(self, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """A command in the image, to its end."""
        command = self.inside(self.image.command(*words, env=env))
        return subprocess.run(command, capture_output=True, text=True, timeout=90)

    def request(
        self, url: str, method: str = "GET", headers: dict[str, str] | None = None, body: str = ""
    ) -> tuple[int, str]:
        """(status, text) of an HTTP request; status 0 where nothing answers."""
        command = ["/usr/bin/python3", "-c", _GET, url, method, json.dumps(headers or {}), body]
        done = subprocess.run(self.inside(command), capture_output=True, text=True, timeout=30, env={})
        status, _, text = done.stdout.partition("\n")
        return int(status or 0), text

    def wait(self, url: str, container: Container, limit_s: float = 60) -> None:
        """Until the URL answers 200; fails with what the container printed."""
        deadline = time.monotonic() + limit_s
        while self.request(url)[0] != 200:
            assert container.process.poll() is None, container.printed()
            assert time.monotonic() < deadline, f"{self.request(url)} {container.printed()}"
            time.sleep(0.2)


@contextlib.contextmanager
def pod(image: Image, folder: Path, hosts: list[str] | None = None) -> Iterator[Pod]:
    """A pod; `hosts` are names that mean 127.0.0.1 in it."""
    names = folder / "hosts"
    names.write_text("".join(f"127.0.0.1 {name}\n" for name in ["localhost", *(hosts or [])]))
    image.shell(f"umount -q ROOT/etc/hosts || :; mount --bind {names} ROOT/etc/hosts")
    holder = subprocess.Popen(
        [
            "unshare",
            "--net",
            "/usr/bin/python3",
            "-c",
            f"{_LOOPBACK}\nprint('up', flush=True)\n__import__('sys').stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    assert holder.stdin
    made = Pod(image, holder.pid, folder)
    try:
        assert holder.stdout.readline() == b"up\n"
        yield made
    finally:
        for container in reversed(made.containers):
            if container.process.poll() is None:
                container.process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    container.process.wait(20)
                container.process.kill()
                container.process.wait()
        holder.stdin.close()
        holder.wait(10)
        holder.stdout.close()
        image.shell("umount -q ROOT/etc/hosts || :")
        for path in made.folders:
            shutil.rmtree(path, ignore_errors=True)


def uid_of(pid: int) -> int:
    """The effective user of a process."""
    return os.stat(f"/proc/{pid}").st_uid

"""Runs a Dockerfile's steps without Docker: each stage in its own root, laid over this machine's by overlayfs.

The machine stands in for the base image: its Debian, with the Python 3.11 that runs the tests at /usr/local, where the
base image has its own. What a stage writes goes into memory and is gone afterwards. Packages of apt-get are looked for,
not installed. Needs root and mount namespaces, as CI has them.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from image.dockerfile import ROOT, Stage, context, stages

# The image that this machine stands in for, by tag, by digest, or by both.
BASE = re.compile(r"python:3\.11-slim(-bookworm)?(@sha256:[0-9a-f]{64})?")
_BASE = "/mnt"  # where the namespace keeps its roots; nothing of it is seen outside
_PASSED = ("PIP_", "SSL_CERT_", "REQUESTS_CA_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy")


def missing() -> str | None:
    """What this machine lacks for building; None where it can."""
    if os.geteuid() != 0:
        return "root"
    for command in ("unshare", "nsenter", "setpriv", "chroot"):
        if shutil.which(command) is None:
            return command
    if sys.version_info[:2] != (3, 11) or sys.version_info < (3, 11, 3) or sys.base_prefix == "/usr":
        return "a Python 3.11.3 or newer in its own folder"
    tried = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"mount -t tmpfs t {_BASE} && mkdir {_BASE}/u {_BASE}/w {_BASE}/m && {_OVERLAY}"],
        capture_output=True,
        text=True,
    )
    return None if tried.returncode == 0 else f"overlay mounts ({tried.stderr.strip()})"


_OVERLAY = f"mount -t overlay o -o lowerdir=/,upperdir={_BASE}/u,workdir={_BASE}/w {_BASE}/m"


_HOLD = f"mount -t tmpfs b {_BASE} && echo ready && exec sleep 3600"


class BuildFailed(Exception):
    """A step of the Dockerfile did not succeed; the message is what it printed."""


@dataclass
class Image:
    """The last stage, built: a root inside a mount namespace."""

    holder: int
    root: str
    stage: Stage

    def command(self, *words: str, uid: int = 100, gid: int = 101, env: dict[str, str] | None = None) -> list[str]:
        """A command line that runs `words` in the image as a user without any privilege (uid 0 keeps its own)."""
        environment = {**self.stage.environment(), **(env or {})}
        drop = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        drop += ["--bounding-set=-all", "--no-new-privs"]
        return [
            *("nsenter", f"--target={self.holder}", "--mount", "--wd=/", "chroot", self.root),
            *(drop if uid else []),
            *("env", "-i", *(f"{k}={v}" for k, v in environment.items())),
            *("sh", "-c", f'cd {self.stage.last("WORKDIR")} && exec "$@"', "sh", *words),
        ]

    def start(self, *args: str, uid: int = 100, gid: int = 101, env: dict[str, str] | None = None) -> list[str]:
        """The command line of a container that is started with these arguments."""
        return self.command("/app/entrypoint.sh", *args, uid=uid, gid=gid, env=env)

    def shell(self, script: str) -> str:
        """Run a script as root inside the namespace, outside the image's root."""
        return _inside(self.holder, script.replace("ROOT", self.root))

    def volumes(self, owner: str = "100:101") -> None:
        """Fresh folders for /tmp and the volumes, the latter owned as told."""
        for path in ("/tmp", "/app/data", "/app/logs"):
            self.shell(f"umount -q ROOT{path} || :; mount -t tmpfs v ROOT{path}")
        self.shell(f"cd ROOT && chmod 1777 tmp && chown {owner} app/data app/logs && chmod 0755 app/data app/logs")


def _inside(holder: int, script: str, *, stdin: bytes | None = None) -> str:
    done = subprocess.run(
        ["nsenter", f"--target={holder}", "--mount", "bash", "-euo", "pipefail", "-c", script],
        input=stdin,
        capture_output=True,
    )
    if done.returncode != 0:
        raise BuildFailed(f"{script}\n{done.stdout.decode()}{done.stderr.decode()}")
    return done.stdout.decode()


@contextlib.contextmanager
def built(dockerfile: Path = ROOT / "docker" / "Dockerfile") -> Iterator[Image]:
    """Run all steps; the last stage's root is read-only then. Raises BuildFailed."""
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", _HOLD],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    try:
        assert holder.stdout.readline() == b"ready\n"
        roots: dict[str, str] = {}
        for stage in stages(dockerfile):
            roots[stage.name] = _build(holder.pid, stage, roots)
        last = roots[stage.name]
        _inside(holder.pid, f"mount -o remount,ro {last}")
        yield Image(holder.pid, last, stage)
    finally:
        holder.terminate()
        holder.wait(20)
        holder.stdout.close()


def _build(holder: int, stage: Stage, roots: dict[str, str]) -> str:
    """Run one stage's steps; returns its root."""
    assert BASE.fullmatch(stage.base), stage.base
    home = f"{_BASE}/{stage.name}"
    root = f"{home}/root"
    _inside(
        holder,
        f"""
        mkdir -p {home}/upper {home}/work {root}
        mount -t overlay o -o lowerdir=/,upperdir={home}/upper,workdir={home}/work {root}
        mount --rbind /dev {root}/dev; mount -t proc p {root}/proc; mount -t tmpfs t {root}/tmp; chmod 1777 {root}/tmp
        rm -rf {root}/app; mount --bind {sys.base_prefix} {root}/usr/local; mount -o remount,bind,ro {root}/usr/local
        chroot {root} ldconfig
        {"" if stage.name == "build" else f"mount -t tmpfs x {root}/root"}
        """,
    )
    workdir, shell = "/", ["/bin/sh", "-c"]
    for number, (name, text) in enumerate(stage.steps):
        environment = Stage(stage.name, stage.base, stage.steps[:number]).environment()
        match name:
            case "WORKDIR":
                workdir = text
                _inside(holder, f"mkdir -p {root}{workdir}")
            case "SHELL":
                shell = ["/bin/bash", "-o", "pipefail", "-c"]
            case "COPY":
                _copy(holder, text, root, workdir, roots)
            case "RUN":
                _run(holder, text, root, workdir, environment, shell)
    return root


def _copy(holder: int, text: str, root: str, workdir: str, roots: dict[str, str]) -> None:
    words = shlex.split(text)
    if words[0].startswith("--from="):
        origin = roots[words.pop(0).removeprefix("--from=")]
        _inside(holder, f"mkdir -p $(dirname {root}{words[1]}); cp -a {origin}{words[0]} {root}{words[1]}")
        return
    *sources, target = words
    target = target if target.startswith("/") else f"{workdir}/{target}"
    is_folder = target.endswith("/") or len(sources) > 1
    sent, archive = context(), BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for source in sources:
            below = [path for path in sent if path == source or path.startswith(f"{source}/")]
            if not below:
                raise BuildFailed(f"COPY {source}: not in the context")
            for path in below:
                inner = path.removeprefix(source).lstrip("/") or (Path(path).name if is_folder else "")
                tar.add(ROOT / path, arcname=f"{target.rstrip('/')}/{inner}".rstrip("/").lstrip("/"), filter=_as_root)
    _inside(holder, f"tar -C {root} -xf -", stdin=archive.getvalue())


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """What COPY makes of a file: root's, with the mode that it has."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _run(holder: int, text: str, root: str, workdir: str, env: dict[str, str], shell: list[str]) -> None:
    if text.startswith("apt-get"):
        packages = [w for w in text.split("install")[1].split("&&")[0].split() if not w.startswith("-")]
        _inside(holder, f"dpkg-query -W {' '.join(packages)}")
        return
    if "groupadd" in text:  # this machine's own users may have these numbers already; the base image's have not
        text = text.replace("groupadd --system", "groupadd --non-unique")
        text = text.replace("useradd --system", "useradd --non-unique")
    passed = {k: v for k, v in os.environ.items() if k.startswith(_PASSED)}
    variables = shlex.join(f"{k}={v}" for k, v in {"HOME": "/root", **passed, **env}.items())
    _inside(holder, f"chroot {root} env -i {variables} {shlex.join([*shell, f'cd {workdir} && {text}'])}")

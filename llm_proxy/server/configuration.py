"""From Settings to gunicorn's settings, at the start and again on a reload."""

import errno
import math
import os
import resource
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_proxy.settings import Loaded, ServerSettings
from llm_proxy.settings.variable import ListenAddress

STOP_RESERVE_S = 12  # after the drain: 2 s for the cut, 8 s for the application to write down everything
MOST_CONNECTIONS, LEAST_CONNECTIONS, SPARE_DESCRIPTORS = 20_000, 10, 200
MOST_DESCRIPTORS = 65_536
FEW_CONNECTIONS = 500  # a soft limit of 1,024 descriptors that cannot be raised leaves 412
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (worker heartbeats: a folder in memory, also under a read-only root)
TLS_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def binds(address: ListenAddress) -> list[str]:
    """gunicorn's `bind`. No host means all addresses of both versions, or of IPv4 where there is no IPv6."""
    if address.path is not None:
        return [f"unix:{address.path}"]
    if address.host:
        return [str(address)]
    if not _has_ipv6():
        return [f"0.0.0.0:{address.port}"]
    if _is_v6_only_by_default():
        return [f"[::]:{address.port}", f"0.0.0.0:{address.port}"]
    return [f"[::]:{address.port}"]


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def _is_v6_only_by_default() -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        return bool(probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def busy_address(address: Any) -> str | None:
    """Why an address can't be listened on, in a few words; None when it can.

    gunicorn would try for five seconds, and take a Unix socket away from its server.
    """
    if isinstance(address, int):  # an inherited descriptor
        return None
    if isinstance(address, str):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            return "address already in use" if probe.connect_ex(address) == 0 else None
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        return "unknown host"
    except OSError as exc:
        return "address already in use" if exc.errno == errno.EADDRINUSE else (exc.strerror or str(exc)).lower()
    return None


def raise_descriptor_limit() -> int:
    """Use what the system allows; returns the limit. Two descriptors a stream add up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def worker_connections(descriptors: int) -> int:
    """Return the connections of one worker: two descriptors each, some spare; past it not even a probe is accepted."""
    return max(LEAST_CONNECTIONS, min(MOST_CONNECTIONS, (descriptors - SPARE_DESCRIPTORS) // 2))


def few_connections(descriptors: int) -> str | None:
    """Return a warning when the limit of descriptors leaves a worker fewer connections than a service needs."""
    left = worker_connections(descriptors)
    if left >= FEW_CONNECTIONS:
        return None
    return f"RLIMIT_NOFILE is {descriptors}, which leaves {left} connections for each worker; further clients wait"


def stop_limit_s(settings: ServerSettings) -> int:
    """gunicorn's `graceful_timeout`: when the master kills. A whole number, or gunicorn does not start."""
    return math.ceil(settings.shutdown_grace_s + settings.drain_timeout_s) + STOP_RESERVE_S


def heartbeat_folder() -> str | None:
    """Where heartbeat files go; None leaves it to gunicorn."""
    return str(SHARED_MEMORY) if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK | os.X_OK) else None


class Renewal:
    """The arbiter's `Configuration`: settings are read, checked and put in place in the master.

    Args:
        first: What the server starts with.
        read: Reads everything again.
        check: All faults of what was read.
        apply: Puts it in place for workers forked from now on.
    """

    def __init__(
        self,
        first: Loaded,
        *,
        read: Callable[[], Loaded],
        check: Callable[[Loaded], list[str]],
        apply: Callable[[Loaded], None],
    ) -> None:
        self._kept = self._current = first
        self._read, self._check, self._apply = read, check, apply
        self.keeps_workers = False  # the command line gave the number of workers
        self.unfinished: Callable[[], bool] | None = None  # a part of the start that goes on; True when it is done

    def renew(self, cfg: Any) -> list[str]:
        """See `arbiter.Configuration`."""
        loaded = self._read()
        faults = self._check(loaded)
        if not faults:
            self._put(loaded, cfg)
        return faults

    def restore(self, cfg: Any) -> None:
        """See `arbiter.Configuration`."""
        self._put(self._kept, cfg)

    def keep(self) -> None:
        """See `arbiter.Configuration`."""
        self._kept = self._current

    def tick(self) -> None:
        """See `arbiter.Configuration`."""
        if self.unfinished is not None and self.unfinished():
            self.unfinished = None

    def _put(self, loaded: Loaded, cfg: Any) -> None:
        self._current = loaded
        self._apply(loaded)
        cfg.set("graceful_timeout", stop_limit_s(loaded.settings.server))
        if loaded.settings.server.enable_tls and cfg.is_ssl:  # each generation reads the certificate again
            cfg.set("certfile", str(loaded.settings.server.tls_cert_file))
            cfg.set("keyfile", str(loaded.settings.server.tls_key_file))
        if not self.keeps_workers:
            cfg.set("workers", loaded.settings.workers)

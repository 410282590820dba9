"""A worker's own record of each unit, in a memory-mapped file that outlives kill -9.

`root/<database id>/<boot id>/<uuid>.ledger`: a header, then slots of 64 bytes: token id (ASCII, 40), lease id (8,
0 = free), units spent (8), time of the last use (8, seconds since 1970). The owner holds the file's lock for as long as
it lives; a process that gets the lock knows that the owner is dead. Local folders only: NFS locks lie.
"""

import contextlib
import errno
import fcntl
import os
import struct
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from weakref import WeakSet

from llm_proxy.runtime.mapped_file import map_descriptor, take_room
from llm_proxy.settings import Settings

SLOTS = 16_384
KEPT_S = 86_400.0  # what is left of another boot of this machine
_SLOT_BYTES, _ID_BYTES = 64, 40
_HEADER = struct.Struct("<8sI")
_MAGIC, _LAYOUT = b"llmproxy", 1
_FIRST = 64  # header, padded to a slot
_BYTES = _FIRST + SLOTS * _SLOT_BYTES
LEASE, SPENT, LAST = 5, 6, 7  # words of 8 bytes within a slot
_WORDS = _SLOT_BYTES // 8
_SUFFIX = ".ledger"


@dataclass(frozen=True, slots=True)
class Noted:
    """One slot's content."""

    at: int  # the slot's first word
    token_id: str
    lease: int
    spent: int
    last_used_s: float  # 0: never


class _Mapped:
    """A ledger's file, locked and mapped. `ints` and `floats` show the same words."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._use(descriptor)
        _OPEN.add(self)

    def _use(self, descriptor: int) -> None:
        self._map = map_descriptor(descriptor, _BYTES)
        self._descriptor = descriptor
        self.bytes = memoryview(self._map)
        self.ints, self.floats = self.bytes.cast("Q"), self.bytes.cast("d")

    def noted(self) -> list[Noted]:
        """Slots in use."""
        found = []
        for at in range(_FIRST // 8, _BYTES // 8, _WORDS):
            lease = self.ints[at + LEASE]
            if lease:
                token_id = bytes(self.bytes[at * 8 : at * 8 + _ID_BYTES]).rstrip(b"\0").decode("ascii", "replace")
                found.append(Noted(at, token_id, lease, self.ints[at + SPENT], self.floats[at + LAST]))
        return found

    def clear(self, at: int) -> None:
        """Free a slot."""
        self.ints[at + LEASE] = 0

    def release(self) -> None:
        """Unlock and unmap; the file stays as it is. Map and descriptor both hold the lock."""
        _OPEN.discard(self)
        if self._descriptor < 0:
            return
        for view in (self.ints, self.floats, self.bytes):
            view.release()
        self._map.close()
        os.close(self._descriptor)
        self._descriptor = -1

    def remove(self) -> None:
        """Unlink, then release: no process can find and lock it."""
        self.path.unlink(missing_ok=True)
        self.release()


class Ledger(_Mapped):
    """The ledger of this process. Not for a forked child: there it is closed.

    Attributes:
        is_in_memory: It has no file, because the disk had no room: what it notes does not outlive the process.
    """

    def __init__(self, path: Path, descriptor: int, *, is_in_memory: bool = False) -> None:
        super().__init__(path, descriptor)
        self.is_in_memory = is_in_memory
        self._free = list(range(_BYTES // 8 - _WORDS, _FIRST // 8 - 1, -_WORDS))

    @classmethod
    def create(cls, folder: Path) -> Self:
        """Create a new ledger in `folder`, for its owner alone. Raises OSError.

        It gets its name when it is locked: another worker that found it before would take its owner for dead. Its room
        is really there: a store into a hole on a full disk is SIGBUS.
        """
        path = _new_path(folder)
        return cls(path, _new_file(path, b""))

    @classmethod
    def create_in_memory(cls, folder: Path) -> Self:
        """Create one without a file, for a folder that takes none now. Raises OSError."""
        descriptor = os.memfd_create("llm-proxy-ledger")
        try:
            return cls(_new_path(folder), descriptor, is_in_memory=True)
        except BaseException:
            os.close(descriptor)
            raise

    def move_to_disk(self) -> None:
        """Go on in a file, with all that is noted. Raises OSError, and stays as it is."""
        views, memory, descriptor = (self.ints, self.floats, self.bytes), self._map, self._descriptor
        file = _new_file(self.path, memory[_FIRST:])
        try:
            self._use(file)
        except BaseException:
            self.path.unlink(missing_ok=True)
            os.close(file)
            raise
        self.is_in_memory = False
        for view in views:
            view.release()
        memory.close()
        os.close(descriptor)

    def occupy(self, token_id: str, lease: int) -> int | None:
        """First word of a slot for this lease, nothing spent yet; None when all are taken."""
        if not self._free:
            return None
        at = self._free.pop()
        self.bytes[at * 8 : at * 8 + _ID_BYTES] = token_id.encode("ascii", "replace").ljust(_ID_BYTES, b"\0")
        self.ints[at + SPENT] = 0
        self.floats[at + LAST] = 0.0
        self.ints[at + LEASE] = lease  # last: now it counts
        return at

    def clear(self, at: int) -> None:
        """Free a slot."""
        super().clear(at)
        self._free.append(at)


def _new_path(folder: Path) -> Path:
    return folder / f"{uuid.uuid4()}{_SUFFIX}"


def _new_file(path: Path, slots: bytes) -> int:
    """Make a ledger's file, locked before it has its name, and return its descriptor. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    hidden = path.with_suffix(".new")
    descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        take_room(descriptor, _BYTES)
        os.pwrite(descriptor, _HEADER.pack(_MAGIC, _LAYOUT), 0)
        os.pwrite(descriptor, slots, _FIRST)
        os.rename(hidden, path)
    except BaseException:
        os.close(descriptor)
        hidden.unlink(missing_ok=True)
        raise
    return descriptor


class DeadLedger(_Mapped):
    """The ledger of a process that is dead, locked by this one."""

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """None when its owner lives, another process settles it, it is gone, or it has another layout."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_own_file(descriptor):
                return cls(path, descriptor)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(descriptor)
                raise
        os.close(descriptor)
        return None


def _is_own_file(descriptor: int) -> bool:
    head = os.pread(descriptor, _HEADER.size, 0)
    return os.fstat(descriptor).st_size == _BYTES and head == _HEADER.pack(_MAGIC, _LAYOUT)


_OPEN: WeakSet[_Mapped] = WeakSet()


def _close_all() -> None:
    for mapped in list(_OPEN):
        mapped.release()


os.register_at_fork(after_in_child=_close_all)  # a child would keep the lock of an owner that is dead


def root_of(settings: Settings) -> Path:
    """LEDGER_DIR: `ledger/` beside the SQLite file, else in AUDIT_LOG_FILE's folder, else in ./data."""
    if settings.tokens.ledger_dir is not None:
        return settings.tokens.ledger_dir
    if settings.storage.driver == "sqlite" and settings.storage.path != ":memory:":
        return Path(settings.storage.path).parent / "ledger"
    if settings.operation.audit_log_file:
        return Path(settings.operation.audit_log_file).parent / "ledger"
    return Path("data") / "ledger"


def fault(settings: Settings) -> str | None:
    """Why ledgers could not be kept, in one line; None when they can. Makes nothing."""
    root = root_of(settings)
    there = root.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return None
    return f"LEDGER_DIR={root}: expected a folder that this user can write to"


def boot_id() -> str:
    """Names this run of this machine's kernel: the page cache of another one may be older than the provider's log."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "boot"


def folder_of(root: Path, database_id: str) -> Path:
    """Where the ledgers of this database and boot lie."""
    return root / database_id / boot_id()


def files(folder: Path) -> Iterator[Path]:
    """Every ledger in a folder."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(_SUFFIX):
                yield Path(entry.path)


def read(path: Path) -> list[Noted]:
    """Return what a ledger holds, its owner alive or not: nothing for a file that is gone or of another layout."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return []
    if not _is_own_file(descriptor):
        os.close(descriptor)
        return []
    mapped = _Mapped(path, descriptor)
    try:
        return mapped.noted()
    finally:
        mapped.release()


def sweep(folder: Path, now_s: float | None = None) -> None:
    """Remove what other boots left more than a day ago, and files that never got their name."""
    oldest = (time.time() if now_s is None else now_s) - KEPT_S
    with contextlib.suppress(FileNotFoundError):
        for boot in folder.parent.iterdir():
            for path in boot.iterdir() if boot.is_dir() else ():
                is_foreign = boot != folder or path.suffix == ".new"
                with contextlib.suppress(OSError):
                    if is_foreign and path.stat().st_mtime < oldest:
                        path.unlink()
            if boot != folder:
                with contextlib.suppress(OSError):
                    boot.rmdir()  # only when it is empty

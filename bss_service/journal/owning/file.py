"""The file of an SQLite store: held by one service, whatever name it is reached by, and watched as long as it is."""

import os
import sys
from pathlib import Path
from typing import Final, Self

import sqlalchemy as sa

from bss_service.errors import StoreError, StoreLostError, UnsupportedSystemError

_PARTS: Final = ("", "-wal")  # files that hold what is stored
_held: Final[set[tuple[int, int]]] = set()  # device and inode of those that this process holds

Identity = tuple[int, int] | None


def real_path(url: sa.URL) -> str:
    """The path of an SQLite URL without symlinks, which would all be names of one file.

    Raises StoreError for what is no plain path, and for a file of several names: SQLite keeps the newest changes in a
    file beside the name that it was opened by, so each name would have its own.
    """
    if url.database in (None, "", ":memory:"):
        raise StoreError(f"the store must be a file, got {str(url)!r}: memory does not outlive the service")
    if "uri" in url.query:
        raise StoreError(f"the store must be the path of a file, without uri=, got {str(url)!r}")
    path = Path(os.path.realpath(url.database))
    if path.is_file() and (names := path.stat().st_nlink) > 1:
        raise StoreError(
            f"the store '{path}' must be a file of one name, got one of {names} (hard links): remove the others, or "
            "copy it with `bss backup`"
        )
    return str(path)


class StoreFile:
    """Holds the file of a store; no other service on this machine gets it meanwhile, by any path.

    On Linux the lock is on the file itself, where SQLite's own locks are of another kind and don't meet it. Elsewhere
    they would, so there a file beside it is locked, which somebody might remove. What neither can keep out, another
    machine over a network file system perhaps, the token does that each commit compares (writer.py).
    """

    def __init__(self, path: Path) -> None:
        """Raises StoreError where another holds it, UnsupportedSystemError where there are no such locks."""
        self._names = [f"{path}{part}" for part in _PARTS]
        self._handle = _locked(path)
        self._inode = _identity(path)
        if self._inode is not None:
            _held.add(self._inode)
        self._parts = self._look()

    @classmethod
    def of(cls, url: sa.URL) -> Self | None:
        """That of an SQLite URL; None for another database, which sees to this by itself."""
        return cls(Path(str(url.database))) if url.get_backend_name() == "sqlite" else None

    def remember(self) -> None:
        """Note which files the database is, once a change was written to it."""
        self._parts = self._look()

    def check(self) -> None:
        """Raises StoreLostError unless they are still where they were: what is written to others is gone."""
        now = self._look()
        for name, before, found in zip(self._names, self._parts, now, strict=True):
            if found != before:
                what = "gone, or can't be looked at" if found is None else "another file than the one that is open"
                raise StoreLostError(
                    f"the store's file {name!r} was deleted, moved or replaced while the service runs: "
                    f"what is there is {what}; nothing is stored any more, restart the service over the right file"
                )

    def close(self) -> None:
        """Let go, after SQLite has: a descriptor's end lets go of all locks that the process has on a file."""
        os.close(self._handle)
        if self._inode is not None:
            _held.discard(self._inode)

    def _look(self) -> list[Identity]:
        return [_identity(name) for name in self._names]


def _identity(path: str | Path) -> Identity:
    try:
        status = os.stat(path)  # noqa: PTH116  called at each commit, and Path would double its time
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _locked(path: Path) -> int:
    """A descriptor that has the lock."""
    try:
        import fcntl  # not on Windows, where the client and the other commands work
    except ModuleNotFoundError:
        raise UnsupportedSystemError("bss serve needs a POSIX system (Linux, macOS, WSL), to lock its store") from None
    taken = StoreError(f"another service has the store {str(path)!r} open")
    if _identity(path) in _held:
        raise taken  # before the file is opened: to close it again would drop SQLite's locks
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        locked = path if sys.platform == "linux" else f"{path}.lock"
        handle = os.open(locked, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"the store {str(path)!r} can't be opened: {error}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise taken from None
        raise StoreError(f"the store {str(path)!r} can't be locked: {error}") from None
    return handle

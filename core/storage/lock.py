"""Locks against two processes that write to one place. The kernel releases them after a crash."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.storage.atomic import require_folder

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors of file systems without locks: nothing is locked there."""
_held: dict[Path, tuple[int, int, int]] = {}
"""Lock files of this process: descriptor, number of holders, process id."""


class InUseError(ValueError):
    """Another process writes to this place: the place, the process and the remedy."""


class Lock:
    """Exclusive lock on a file that exists while the lock is held, or after a crash.

    place: name of the locked folder or file in the error. remedy: what to do besides waiting.
    Locks of one process on one file are one lock. `acquire` raises InUseError if another process holds it,
    and OSError if the file cannot be created.
    """

    def __init__(self, path: Path, place: Path, remedy: str) -> None:
        self._path = path.parent.resolve() / path.name
        self._place, self._remedy = place, remedy
        self._is_held = False

    def acquire(self) -> None:
        """Take the lock now, or raise."""
        if self._is_held:
            return
        descriptor, holders, process = _held.get(self._path, (-1, 0, 0))
        if not holders or process != os.getpid():
            descriptor, holders = self._open(), 0
        _held[self._path] = descriptor, holders + 1, os.getpid()
        self._is_held = True

    def release(self) -> None:
        """Give the lock back and remove its file."""
        if not self._is_held:
            return
        self._is_held = False
        descriptor, holders, process = _held[self._path]
        if holders > 1:
            _held[self._path] = descriptor, holders - 1, process
            return
        del _held[self._path]
        with suppress(OSError):
            self._path.unlink()
        os.close(descriptor)

    def _open(self) -> int:
        """Return the descriptor of the locked file."""
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
                if error.errno in _UNSUPPORTED:
                    return descriptor
                os.close(descriptor)
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                by = f"process {owner}" if owner else "another process"
                raise InUseError(f"{self._place} is being written by {by}; wait or {self._remedy}.") from None
            if _is_file_of(descriptor, self._path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()} on {socket.gethostname()}".encode(), 0)
                return descriptor
            os.close(descriptor)  # its holder removed it between the two calls


@contextmanager
def output_lock(path: Path, remedy: str = "name another output") -> Iterator[None]:
    """Lock an output file or folder while the body writes it; devices and pipes are not locked.

    The lock file is `.NAME.lock` in the same folder. Raises InUseError if another process writes the output,
    FileNotFoundError if its folder does not exist.
    """
    require_folder(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        yield
        return
    target = path.resolve()
    lock = Lock(target.with_name(f".{target.name[:200]}.lock"), path, remedy)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_file_of(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False

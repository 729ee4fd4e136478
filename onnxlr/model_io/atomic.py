"""Put finished files in place whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})


@contextmanager
def draft(target: Path) -> Iterator[Path]:
    """Name a file in the folder of ``target`` to write first; whatever is under that name at the end is removed."""
    temporary = target.with_name(f".onnxlr-{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def create(path: Path) -> IO[bytes]:
    """Create ``path``, which must not exist, for writing; its mode is what the umask leaves of 0666."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb")


def sync(file: IO[bytes]) -> None:
    """Have the bytes on the disk before the name is."""
    file.flush()
    os.fsync(file.fileno())


def place(drafts: Sequence[tuple[Path, Path]], *, force: bool) -> None:
    """Give each (draft, target) its final name, in order; on an interruption either all or none are in place.

    Without ``force`` an existing target, even one created this instant, raises FileExistsError; with it, it is
    replaced in one step and keeps its mode.
    """
    try:
        for temporary, target in drafts:
            if force:
                _replace(temporary, target)
            else:
                _link(temporary, target)
    except BaseException:
        if force and not drafts[0][0].exists():
            for temporary, target in drafts:
                if temporary.exists():
                    temporary.replace(target)
        elif not force:
            for temporary, target in drafts:
                if temporary.exists() and target.exists() and temporary.samefile(target):
                    target.unlink()
        raise
    _sync_folder(drafts[0][1].parent)


def _replace(temporary: Path, target: Path) -> None:
    if target.is_file():
        temporary.chmod(target.stat().st_mode & 0o777)
    temporary.replace(target)


def _link(temporary: Path, target: Path) -> None:
    try:
        target.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        temporary.replace(target)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

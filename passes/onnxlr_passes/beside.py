"""Files beside a model that it says its weights are in.

A model may come from a stranger: nothing outside of its folder is read, and no pipe is waited on.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import FileIO


def inside(folder: Path, location: str) -> Path:
    """Return the file of an external ``location``, links resolved, which must be below ``folder``.

    Raises
    ------
    ValueError
        When there is no name, or it leads out of the folder: absolute, by ``..`` or by a symbolic link.
    """
    if not location or "\0" in location:
        raise ValueError(f"{location!r} names no file")
    if Path(location).is_absolute():
        raise ValueError(f"{location!r} is an absolute path")
    base = os.path.realpath(folder)
    path = Path(os.path.realpath(Path(base, location)))
    if not path.is_relative_to(base):
        raise ValueError(f"{location!r} leads out of {folder}")
    return path


def byte_number(text: str) -> int:
    """Return an offset or a length as an external entry says it.

    Raises
    ------
    ValueError
        When it is no whole number from 0 on.
    """
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{text!r} is not a number of bytes")
    return int(text)


def open_regular(path: Path) -> FileIO:
    """Open a file for unbuffered reading without ever waiting on a pipe or device.

    Raises
    ------
    OSError
        When it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "is not a regular file", str(path))
    return os.fdopen(descriptor, "rb", buffering=0)

"""Folders made and files removed, with one line where that cannot be done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxlr.errors import ModelError
from onnxlr.model_io.atomic import create, draft
from onnxlr.model_io.save import cannot_write

if TYPE_CHECKING:
    from pathlib import Path


def check_folder(folder: Path) -> None:
    """Refuse, before any work is done, a folder that cannot be made, or written in where it is there; leave no trace.

    Raises
    ------
    ModelError
        When it cannot.
    """
    try:
        if folder.is_dir():
            with draft(folder / "file") as temporary:
                create(temporary).close()
        else:
            folder.mkdir()
            folder.rmdir()
    except OSError as error:
        raise cannot_write(folder, error) from error


def make_folder(folder: Path) -> None:
    """Make a folder where there is none.

    Raises
    ------
    ModelError
        When it cannot be made.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


def remove(path: Path) -> None:
    """Remove a file where there is one.

    Raises
    ------
    ModelError
        When it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(f"{path} cannot be removed ({error.strerror or error})", "remove it by hand") from error

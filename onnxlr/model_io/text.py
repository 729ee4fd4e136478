"""Reports and plans to files, as whole and as careful as models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxlr.model_io.atomic import create, draft, place, sync
from onnxlr.model_io.save import cannot_write, check_output, output_exists

if TYPE_CHECKING:
    from pathlib import Path


def write_text(out: Path, text: str, *, force: bool = False) -> None:
    """Write UTF-8 text, whole or not at all.

    Raises
    ------
    UsageError
        When ``out`` exists and ``force`` is not given.
    ModelError
        When it cannot be written.
    """
    check_output(out, force=force)
    write_bytes(out, text.encode(), force=force)


def write_bytes(out: Path, content: bytes | memoryview, *, force: bool = False) -> None:
    """Write ``content``, whole or not at all.

    Raises
    ------
    UsageError
        When ``out`` exists and ``force`` is not given.
    ModelError
        When it cannot be written.
    """
    try:
        with draft(out) as temporary:
            with create(temporary) as file:
                file.write(content)
                sync(file)
            place([(temporary, out)], force=force)
    except FileExistsError as error:
        raise output_exists(str(out)) from error
    except OSError as error:
        raise cannot_write(out, error) from error

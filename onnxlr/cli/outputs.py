"""Output files, checked together before any work is done."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from onnxlr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def check_outputs(outputs: Mapping[str, Path | None], protect: Sequence[Path], *, force: bool) -> None:
    """Refuse outputs that could not be written, that are inputs, or that are one file.

    Parameters
    ----------
    outputs
        The file of each option, None where it is not given.
    protect
        The inputs.

    Raises
    ------
    UsageError
        When a file exists and ``force`` is not given, is an input, or is given twice.
    ModelError
        When there is no such folder.
    """
    from onnxlr.model_io import check_output

    seen: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        check_output(path, protect, force=force)
        other = seen.setdefault(path.resolve(), option)
        if other != option:
            raise UsageError(f"{other} and {option} are the same file {path}", "give each its own")


def check_data_output(out: Path, source: Path, *, force: bool) -> None:
    """Refuse the file for the weights beside the model ``out`` likewise, where ``source`` keeps its own beside it.

    Raises
    ------
    UsageError
        When the file exists and ``force`` is not given, or is an input.
    ModelError
        When ``source`` cannot be read.
    """
    from onnxlr.model_io import check_output, data_file, load

    if os.path.lexists(data_file(out)):  # rare, so that reading the source twice is no matter
        model = load(source)
        if model.external:
            check_output(data_file(out), model.files, force=force)

"""Output files, checked together before any work is done."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from onnxlr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_NONE: Mapping[str, Path] = {}


def check_outputs(
    outputs: Mapping[str, Path | None],
    *,
    models: Sequence[Path] = (),
    protect: Sequence[Path] = (),
    reserve: Mapping[str, Path] = _NONE,
    force: bool,
) -> None:
    """Refuse outputs that could not be written, that are inputs, or that are one file.

    Parameters
    ----------
    outputs
        The file of each option, None where it is not given.
    models
        The models that are read; the files that they keep weights in are protected as well.
    protect
        The other inputs.
    reserve
        Files that are written along with these or meanwhile, by what they are in words; they may exist.

    Raises
    ------
    UsageError
        When a file exists and ``force`` is not given, is an input, or is given twice.
    ModelError
        When there is no such folder; when an output exists, and a model cannot be read.
    """
    from onnxlr.model_io import check_output

    given = {option: path for option, path in outputs.items() if path is not None}
    seen = {path.resolve(): what for what, path in reserve.items()}
    for option, path in given.items():
        check_output(path, (*models, *protect), force=force)
        other = seen.setdefault(path.resolve(), option)
        if other != option:
            raise UsageError(f"{other} and {option} are the same file {path}", "give each its own")
    if any(os.path.lexists(path) for path in given.values()):  # rare, so that reading models twice is no matter
        weights = files_of(models)
        for path in given.values():
            check_output(path, weights, force=force)


def check_data_output(
    out: Path, source: Path, *, models: Sequence[Path] = (), protect: Sequence[Path] = (), force: bool
) -> None:
    """Refuse the file for the weights beside the model ``out`` likewise, where ``source`` keeps its own beside it.

    Raises
    ------
    UsageError
        When the file exists and ``force`` is not given, or is an input: one of ``protect``, of ``source`` or of the
        other ``models`` that are read.
    ModelError
        When a model cannot be read.
    """
    from onnxlr.model_io import check_output, data_file, load

    if os.path.lexists(data_file(out)):  # rare, as above
        model = load(source)
        if model.external:
            check_output(data_file(out), (*model.files, *files_of(models), *protect), force=force)


def files_of(models: Sequence[Path]) -> tuple[Path, ...]:
    """List the files of models: each .onnx file, and those that it keeps weights in.

    Raises
    ------
    ModelError
        When one cannot be read.
    """
    from onnxlr.model_io import load

    return tuple(file for model in models for file in load(model).files)

"""Samples from files: .npz, .npy, a folder of either, a folder of images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from onnxlr.calibration.arrays import StoredArray, readable, stored_arrays
from onnxlr.calibration.fit import check_castable, fit_shape, keys_of
from onnxlr.calibration.images import IMAGE_SUFFIXES, open_images
from onnxlr.calibration.parts import ArrayPart
from onnxlr.calibration.source import check_inputs, make_source
from onnxlr.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onnxlr.calibration.parts import Part
    from onnxlr.calibration.source import DataOptions, Source
    from onnxlr.target import Input

_ARRAY_SUFFIXES = frozenset({".npz", ".npy"})


def open_source(
    path: Path,
    inputs: Sequence[Input],
    shapes: Mapping[str, Sequence[int]],
    options: DataOptions,
    *,
    label: str | None = None,
) -> Source:
    """Open the data at ``path`` for a model's inputs; what can be checked without reading the samples is checked.

    An .npz file has one array per input, by the input's name, samples along the first axis; a model with a single
    input may find its array under any key. The keys ``label``, ``labels`` and ``y`` are passed over. An .npy file is
    for a single input. A folder is read with all its folders, sorted by path; hidden files and other suffixes are
    passed over. An array that lacks only the axis of samples is one sample. Numbers are cast to the input's type: to
    floating point with rounding, to integers only where exact; scale them before. Where the model fixes a batch,
    samples that do not fill a last one are left out, which ``Source.notes`` tells.

    Parameters
    ----------
    inputs
        What the model is fed, see ``onnxlr.target.graph_inputs``.
    shapes
        Full shapes given for inputs with free sizes, by name, batch first (any); may be empty, the data decide then.
    label
        Another key that is passed over, unless an input has no other array.

    Raises
    ------
    UsageError
        ``path`` is no kind of data that is read, or Pillow is needed and not there.
    ModelError
        The data cannot be read, or do not fit the inputs.
    """
    check_inputs(inputs)
    given = {name: tuple(shape) for name, shape in shapes.items()}
    parts = _parts(path, inputs, given, options, label)
    source = make_source(str(path), parts, inputs, options.samples, options.seed, varied=options.varied)
    return replace(source, memory=options.memory)


def files_in(folder: Path, suffixes: frozenset[str]) -> tuple[Path, ...]:
    """List the files with one of ``suffixes`` (lower case) in ``folder`` and its folders, relative to it, sorted.

    Raises
    ------
    ModelError
        The folder cannot be read.
    """
    with readable(folder):
        found = [file.relative_to(folder) for file in folder.rglob("*") if file.suffix.lower() in suffixes]
        shown = (file for file in found if not any(part.startswith(".") for part in file.parts))
        return tuple(sorted((file for file in shown if (folder / file).is_file()), key=lambda file: file.parts))


def _parts(
    path: Path,
    inputs: Sequence[Input],
    given: Mapping[str, tuple[int, ...]],
    options: DataOptions,
    label: str | None,
) -> Sequence[Part]:
    if path.is_dir():
        arrays, images = files_in(path, _ARRAY_SUFFIXES), files_in(path, IMAGE_SUFFIXES)
        if arrays and images:
            raise UsageError(
                f"{path} holds both arrays ({arrays[0]}) and images ({images[0]})", "give a folder of one kind"
            )
        if images:
            return [open_images(path, images, inputs, given, options.image, varied=options.varied)]
        if not arrays:
            kinds = ", ".join(sorted(_ARRAY_SUFFIXES | IMAGE_SUFFIXES))
            raise ModelError(f"{path} has 0 samples: the folder holds no file of {kinds}", "give another folder")
        return [_array_part(path / file, inputs, given, label) for file in arrays]
    if path.suffix.lower() not in _ARRAY_SUFFIXES:
        hint = "give the folder it is in" if path.suffix.lower() in IMAGE_SUFFIXES else "for example data.npz"
        raise UsageError(f"{path} is not an .npz file, an .npy file or a folder", hint)
    return [_array_part(path, inputs, given, label)]


def _array_part(
    path: Path, inputs: Sequence[Input], given: Mapping[str, tuple[int, ...]], label: str | None
) -> ArrayPart:
    stored = stored_arrays(path)
    if "" in stored and len(inputs) > 1:
        names = ", ".join(item.name for item in inputs)
        raise ModelError(f"{path} is one array, the model takes {len(inputs)} inputs: {names}", "give an .npz file")
    fed = {item.name for item in inputs}
    samples = {key: array for key, array in stored.items() if key != label or key in fed} or stored
    arrays = arrays_of(str(path), inputs, samples, given)
    counts = {item.name: array.shape[0] for item, array in arrays}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"'{name}' {count}" for name, count in counts.items())
        raise ModelError(f"{path}: the arrays have different numbers of samples: {text}", "give as many for each input")
    return ArrayPart(str(path), tuple(arrays))


def arrays_of(
    where: str, inputs: Sequence[Input], stored: Mapping[str, StoredArray], given: Mapping[str, tuple[int, ...]]
) -> list[tuple[Input, StoredArray]]:
    """Return every input with its array among those ``stored``, in the shape of samples the model takes.

    Raises
    ------
    ModelError
        When an input has no array, or one of another type or shape.
    """
    keys = keys_of(where, inputs, list(stored))
    arrays = []
    for item in inputs:
        array = stored[keys[item.name]]
        check_castable(array.where, item, array.dtype)
        shape = fit_shape(array.where, item, array.shape, given.get(item.name))
        arrays.append((item, replace(array, shape=shape)))
    return arrays

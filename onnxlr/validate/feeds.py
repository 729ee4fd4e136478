"""Feeds from a file: arrays of a .npz, cast to the model's types and cut into batches."""

from __future__ import annotations

import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.errors import ModelError
from onnxlr.target.feeds import check_feedable, seeded_feeds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from onnxlr.target import Input

__all__ = ["feeds_from_npz", "seeded_feeds"]

Array = np.ndarray[Any, Any]

LABELS = "labels"
_BATCH = 16  # samples a feed where the model leaves the batch free


def feeds_from_npz(path: Path, inputs: Sequence[Input], limit: int | None = None) -> tuple[dict[str, Array], ...]:
    """Read the samples in ``path`` as feeds.

    The file has one array per input, by the input's name, samples along the first axis; a model with a single input may
    find its array under any key. The key ``labels`` is never an input. Numbers are cast to the input's type as they
    are: scale them before. A feed has as many samples as the model fixes, or up to 16; where the model fixes a batch,
    samples that do not fill a last one are left out.

    Parameters
    ----------
    limit
        Number of samples to use; None for all.

    Raises
    ------
    ModelError
        The file cannot be read, or its arrays do not fit the inputs: one line with both shapes.
    """
    if not inputs:
        raise ModelError(f"{path}: the model has no input to feed")
    arrays = _read(path, inputs)
    prepared = {item.name: _fit(path, item, arrays[item.name]) for item in inputs}
    counts = {name: array.shape[0] for name, array in prepared.items()}
    samples = min(counts.values())
    if max(counts.values()) != samples:
        text = ", ".join(f"'{name}' {count}" for name, count in counts.items())
        raise ModelError(f"{path}: the arrays have different numbers of samples: {text}")
    samples = samples if limit is None else min(samples, limit)
    batch = _fixed_batch(path, inputs)
    size = batch or _BATCH
    starts = range(0, samples - size + 1 if batch else samples, size)
    if not starts:
        raise ModelError(f"{path}: {samples} samples do not fill one batch of {size}", "give more samples")
    return tuple(
        {name: array[start : min(start + size, samples)] for name, array in prepared.items()} for start in starts
    )


def _keys(path: Path, inputs: Sequence[Input], present: Sequence[str]) -> dict[str, str]:
    """Find the key of each input's array."""
    keys = [key for key in present if key != LABELS]
    if len(inputs) == 1 and inputs[0].name not in keys and len(keys) == 1:
        return {inputs[0].name: keys[0]}
    missing = [item.name for item in inputs if item.name not in keys]
    if missing:
        has = ", ".join(keys) or "none"
        raise ModelError(f"{path} has no array for the input '{missing[0]}'", f"its arrays: {has}")
    return {item.name: item.name for item in inputs}


def _read(path: Path, inputs: Sequence[Input]) -> dict[str, Array]:
    """Read the arrays of the inputs, by input name."""
    try:
        with path.open("rb") as file:  # np.load leaves a damaged file open when it opens it itself
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ModelError(f"{path} is not an .npz file", "write it with numpy.savez")
            keys = _keys(path, inputs, archive.files)
            return {name: archive[key] for name, key in keys.items()}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"cannot read {path}: {' '.join(str(error).split())}", "write it with numpy.savez") from error


def _fit(path: Path, item: Input, array: Array) -> Array:
    """Cast an array of samples to what the input takes; refuse another shape."""
    check_feedable(item)
    if item.dims is not None:
        wanted, got = item.dims[1:], array.shape[1:]
        fits = array.ndim == len(item.dims) > 0 and all(
            not isinstance(size, int) or size == have for size, have in zip(wanted, got, strict=True)
        )
        if not fits:
            shape = "x".join(map(str, array.shape)) or "scalar"
            raise ModelError(f"{path}: an array of shape {shape} does not fit the model's input {item}")
    elif array.ndim == 0:
        raise ModelError(f"{path}: the array for the input {item} is a scalar, it needs an axis of samples")
    if (array.dtype.kind in "OUS") != (item.dtype.kind in "OUS") or (array.dtype.kind == "c") > (
        item.dtype.kind == "c"
    ):
        raise ModelError(f"{path}: an array of type {array.dtype} cannot be cast for the model's input {item}")
    return np.ascontiguousarray(array, dtype=item.dtype)


def _fixed_batch(path: Path, inputs: Sequence[Input]) -> int | None:
    """Tell the number of samples that the inputs fix, or None."""
    sizes = {item.dims[0] for item in inputs if item.dims and isinstance(item.dims[0], int)}
    if len(sizes) > 1 or 0 in sizes:
        raise ModelError(f"{path}: the model's inputs do not share a batch axis, so samples cannot be cut into feeds")
    return next((size for size in sizes if isinstance(size, int)), None)

"""Samples from Python: any iterable of feeds, or ONNX Runtime's CalibrationDataReader, kept in a temporary folder."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from onnxlr.calibration.arrays import StoredArray
from onnxlr.calibration.fit import cast, fit_shape, keys_of
from onnxlr.calibration.parts import ArrayPart
from onnxlr.calibration.source import check_inputs, make_source
from onnxlr.errors import ModelError, UsageError

if TYPE_CHECKING:
    from onnxlr.calibration.source import DataOptions, Source
    from onnxlr.target import Feeds, Input

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


@runtime_checkable
class DataReader(Protocol):
    """What ONNX Runtime's ``CalibrationDataReader`` is: ``get_next`` gives a feed, then None for ever."""

    def get_next(self) -> Feeds | None:
        """Give the next feed, or None after the last."""


class Spool:
    """A private temporary folder, removed on ``close``, with the object, or with the process that made it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="onnxlr-"))
        self._remove = weakref.finalize(self, _remove, self.folder, os.getpid())

    def close(self) -> None:
        """Remove the folder; a second time does nothing."""
        self._remove()


def from_iterable(
    data: Iterable[Feeds] | DataReader | Feeds,
    inputs: Sequence[Input],
    shapes: Mapping[str, Sequence[int]],
    options: DataOptions,
) -> Source:
    """Read the feeds of ``data`` once, check and cast them, and keep them on disk so that they can be read again.

    Everything is copied, also what could be iterated again: a second look at a shuffling or augmenting loader would
    give other samples. The folder (in ``TMPDIR``) goes when the source is closed, or with it. A feed is a mapping from
    input name to an array with samples along the first axis, or one sample without it; it may hold any number of them,
    and keys are found as in an .npz file. With ``options.samples`` reading stops as soon as that many are there.

    Parameters
    ----------
    data
        Feeds, one mapping that holds all samples, or an object with ``get_next`` (and ``rewind``, which is called
        before reading if it is there).
    shapes
        As for ``open_source``.

    Raises
    ------
    UsageError
        Something that is not a mapping is among the feeds.
    ModelError
        A feed does not fit the inputs, there is none, or the copy cannot be written.
    """
    check_inputs(inputs)
    for item in inputs:
        if item.dtype.kind in "OUS":
            raise ModelError(f"the input {item} takes text, which is not read from an iterable", "give an .npz file")
    given = {name: tuple(shape) for name, shape in shapes.items()}
    spool = Spool()
    try:
        parts = _copy(_feeds(data), spool.folder, inputs, given, options)
        source = make_source("the data", parts, inputs, options.samples, options.seed, varied=options.varied)
        return replace(source, resource=spool, memory=options.memory)
    except BaseException:
        spool.close()
        raise


def _feeds(data: Iterable[Feeds] | DataReader | Feeds) -> Iterator[Any]:
    """Go through the feeds, which are yet to be seen to be some."""
    if isinstance(data, DataReader):
        rewind = getattr(data, "rewind", None)
        if callable(rewind):
            rewind()
        while (feed := data.get_next()) is not None:
            yield feed
    elif isinstance(data, Mapping):
        yield data
    else:
        yield from data


def _copy(
    feeds: Iterator[Any],
    folder: Path,
    inputs: Sequence[Input],
    given: Mapping[str, Shape],
    options: DataOptions,
) -> list[ArrayPart]:
    """Append the samples of every feed to one file of raw elements per input, new ones where their shapes change."""
    runs: list[_Run] = []
    count = 0
    for number, feed in enumerate(feeds):
        arrays = _checked(f"feed {number}", feed, inputs, given)
        found = {name: array.shape[1:] for name, array in arrays.items()}
        if not runs or runs[-1].shapes != found:
            if runs and not options.varied:
                raise ModelError(
                    f"feed {number} has samples of other shapes than feed 0", f"{found}, not {runs[0].shapes}"
                )
            paths = [folder / f"{len(runs)}-{index}" for index in range(len(inputs))]
            runs.append(_Run(paths, found, 0))
        room = None if options.samples is None else options.samples - count
        added = _append(runs[-1].paths, list(arrays.values()), room)
        runs[-1] = replace(runs[-1], count=runs[-1].count + added)
        count += added
        if count == options.samples:
            break
    return [_part(run, inputs) for run in runs or [_Run([folder / "none"] * len(inputs), {}, 0)]]


@dataclass(frozen=True, slots=True)
class _Run:
    """Samples of the same shapes, one file per input."""

    paths: list[Path]
    shapes: dict[str, Shape]
    count: int


def _part(run: _Run, inputs: Sequence[Input]) -> ArrayPart:
    stored = (
        StoredArray(path, None, 0, (run.count, *run.shapes.get(item.name, ())), item.dtype)
        for item, path in zip(inputs, run.paths, strict=True)
    )
    return ArrayPart("the data", tuple(zip(inputs, stored, strict=True)))


def _checked(where: str, feed: Any, inputs: Sequence[Input], given: Mapping[str, Shape]) -> dict[str, Array]:
    """Give the feed's arrays in the order of the inputs, with the axis of samples, cast."""
    if not isinstance(feed, Mapping):
        raise UsageError(f"{where} is a {type(feed).__name__}", "give mappings from input name to array")
    keys = keys_of(where, inputs, list(feed))
    arrays = {}
    for item in inputs:
        array = np.asarray(feed[keys[item.name]])
        place = f"{where}: '{keys[item.name]}'"
        full = array.reshape(fit_shape(place, item, array.shape, given.get(item.name)))
        arrays[item.name] = cast(place, item, full, range(len(full)))
    if len({len(array) for array in arrays.values()}) > 1:
        text = ", ".join(f"'{name}' {len(array)}" for name, array in arrays.items())
        raise ModelError(f"{where}: the arrays have different numbers of samples: {text}")
    return arrays


def _append(paths: Sequence[Path], arrays: Sequence[Array], room: int | None) -> int:
    try:
        for path, array in zip(paths, arrays, strict=True):
            with path.open("ab") as file:
                file.write(array[:room].reshape(-1).view(np.uint8).data)
    except OSError as error:
        reason = f"cannot copy the data to {tempfile.gettempdir()}: {error.strerror}"
        raise ModelError(reason, "set TMPDIR to a folder with more room") from error
    return len(arrays[0][:room])


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child must not take away what its parent still reads
        shutil.rmtree(folder, ignore_errors=True)

"""Data opened for a model, and the shapes and the target that follow from it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from onnxlr.calibration import DataOptions, ImageOptions, Memory, copied, from_iterable, open_source, parse_memory
from onnxlr.errors import UsageError
from onnxlr.evaluation import open_evaluation
from onnxlr.target import Target, graph_inputs

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from onnxlr.calibration import DataReader
    from onnxlr.calibration import Source as Calibration
    from onnxlr.evaluation import EvaluationData
    from onnxlr.model_io import Model
    from onnxlr.target import Feeds

    Data = str | os.PathLike[str] | DataReader | Iterable[Feeds]


def is_folder(data: Data | None) -> bool:
    """Whether data are a folder, as those of images are."""
    return isinstance(data, str | PathLike) and Path(data).is_dir()


def data_options(
    data: Data | None,
    evaluation: str | PathLike[str] | None,
    samples: int | None,
    images: ImageOptions | None,
    memory: int | str,
    seed: int,
    copies: int = 1,
) -> tuple[DataOptions, DataOptions]:
    """Return how calibration and evaluation data are to be read.

    Raises
    ------
    UsageError
        When an option is about data that are not given.
    """
    if samples is not None and data is None:
        raise UsageError("--samples says how much of --data to use", "give --data as well, or leave it out")
    if copies != 1 and data is None:
        raise UsageError("--copies says how often to look at the images of --data", "give --data as well")
    if images is not None and not any(is_folder(path) for path in (data, evaluation)):
        raise UsageError("image options are for a folder of images", "give one as data, or leave them out")
    limit = Memory(parse_memory(memory) if isinstance(memory, str) else memory)
    options = DataOptions(samples, seed, images or ImageOptions(), limit, varied=True, copies=copies)
    return options, replace(options, samples=None, varied=False, copies=1)


@contextmanager
def calibration_data(
    model: Model, data: Data | None, shapes: Mapping[str, Sequence[int]], options: DataOptions
) -> Iterator[Calibration | None]:
    """Open calibration data for a model; nothing where there are none."""
    if data is None:
        yield None
        return
    inputs = graph_inputs(model.proto)
    if isinstance(data, str | PathLike):
        opened = open_source(Path(data), inputs, shapes, options)
    else:
        opened = from_iterable(data, inputs, shapes, options)
    with opened:
        yield copied(opened, inputs, options.copies, options.seed, options.image.layout)


@contextmanager
def evaluation_data(
    model: Model,
    path: str | PathLike[str] | None,
    shapes: Mapping[str, Sequence[int]],
    options: DataOptions,
) -> Iterator[EvaluationData | None]:
    """Open evaluation data for a model; nothing where there are none."""
    if path is None:
        yield None
        return
    opened = open_evaluation(Path(path), graph_inputs(model.proto), shapes, options)
    with opened.source:
        yield opened


def shapes_of(
    given: Mapping[str, Sequence[int]] | None, calibration: Calibration | None, judged_on: EvaluationData | None
) -> Mapping[str, Sequence[int]] | None:
    """Return the shapes to work at: those given, else those of one sample."""
    source = calibration if calibration is not None or judged_on is None else judged_on.source
    if given or source is None:
        return given
    label = None if judged_on is None else judged_on.label
    return {name: (source.batch or 1, *shape) for name, shape in source.shapes.items() if name != label}


def target_of(provider: str, threads: int, shapes: Mapping[str, Sequence[int]] | None) -> Target:
    """Return the target that options name.

    Raises
    ------
    UsageError
        When there is no such provider, or there are not as many cores.
    """
    fixed = tuple((name, tuple(shape)) for name, shape in (shapes or {}).items())
    return Target(provider=provider, threads=threads, shapes=fixed)

"""Evaluation data: samples with their labels, streamed in batches and split in two."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.calibration.arrays import stored_arrays
from onnxlr.calibration.files import arrays_of, files_in, open_source
from onnxlr.calibration.fit import LABELS
from onnxlr.calibration.images import IMAGE_SUFFIXES, open_images
from onnxlr.calibration.parts import ArrayPart
from onnxlr.calibration.source import check_inputs, make_source
from onnxlr.errors import ModelError, UsageError
from onnxlr.target.inputs import Input

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from onnxlr.calibration.parts import Part
    from onnxlr.calibration.source import DataOptions, Source

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

CLASS = "class of the folder"
"""The key of the labels that folders of images give; no ONNX input is called that."""


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationData:
    """Samples to judge a model on: ``source`` reads the labels, if any, under the key ``label``."""

    source: Source
    label: str | None

    @property
    def count(self) -> int:
        """Number of samples."""
        return self.source.count

    def batches(self, size: int) -> Iterator[tuple[dict[str, Array], Array | None]]:
        """Read the samples in order as feeds with their labels, at most ``size`` at a time (see ``Source.batches``)."""
        for batch in self.source.batches(size):
            labels = None if self.label is None else batch.pop(self.label)
            yield batch, labels

    def split(self, share: float, seed: int) -> tuple[EvaluationData, EvaluationData]:
        """Draw ``share`` (0 to 1) of the samples by ``seed`` for the first part; the second has all others.

        Raises
        ------
        ModelError
            When a part would be left without a sample, or without a batch of the size that the model fixes.
        """
        first = round(share * self.count)
        if not 0 < first < self.count:
            raise ModelError(
                f"{self.count} evaluation samples cannot be split with {share:g} of them to choose by", "give more"
            )
        drawn = np.random.default_rng(seed).permutation(self.count)
        parts = (sorted(map(int, drawn[:first])), sorted(map(int, drawn[first:])))
        chosen, held = (replace(self, source=self.source.only(part)) for part in parts)
        return chosen, held


@dataclass(frozen=True, slots=True, eq=False)
class _LabelledImages:
    """A part of images whose labels are at hand."""

    images: Part
    labels: Array

    @property
    def where(self) -> str:
        return self.images.where

    @property
    def reading(self) -> str:
        return self.images.reading

    @property
    def count(self) -> int:
        return self.images.count

    @property
    def shapes(self) -> Mapping[str, Shape]:
        return {**self.images.shapes, CLASS: ()}

    def read(self, chosen: Sequence[int], size: int) -> Iterator[dict[str, Array]]:
        starts = range(0, len(chosen), size)
        for start, batch in zip(starts, self.images.read(chosen, size), strict=True):
            yield {**batch, CLASS: self.labels[list(chosen[start : start + size])]}


def open_evaluation(
    path: Path, inputs: Sequence[Input], shapes: Mapping[str, Sequence[int]], options: DataOptions
) -> EvaluationData:
    """Open labelled data.

    An .npz file has an array per input, as calibration data have, and the labels under ``labels``, ``label`` or ``y``,
    or under the only key that is no input. A folder of folders of images gives each image the class of its folder:
    its name where all names are whole numbers, else its place in sorted order. Anything else that calibration data
    may be is read as samples without labels.

    Raises
    ------
    UsageError, ModelError
        As ``onnxlr.calibration.open_source`` does; or when there are not as many labels as samples.
    """
    check_inputs(inputs)
    given = {name: tuple(shape) for name, shape in shapes.items()}
    if path.is_dir():
        images = files_in(path, IMAGE_SUFFIXES)
        if images and all(len(file.parts) > 1 for file in images):
            pixels = open_images(path, images, inputs, given, options.image)
            part: Part = _LabelledImages(pixels, _classes([file.parts[0] for file in images]))
            return EvaluationData(make_source(str(path), [part], inputs, options.samples, options.seed), CLASS)
    elif path.suffix.lower() == ".npz":
        found = _labelled_part(path, inputs, given)
        if found is not None:
            part, key = found
            return EvaluationData(make_source(str(path), [part], inputs, options.samples, options.seed), key)
    return EvaluationData(open_source(path, inputs, shapes, options), None)


def _classes(names: Sequence[str]) -> Array:
    """Return the class of each image from the name of its folder."""
    known = sorted(set(names))
    if all(name.isdecimal() for name in known):
        return np.array([int(name) for name in names], dtype=np.int64)
    index = {name: place for place, name in enumerate(known)}
    return np.array([index[name] for name in names], dtype=np.int64)


def _labelled_part(path: Path, inputs: Sequence[Input], given: Mapping[str, Shape]) -> tuple[ArrayPart, str] | None:
    """Return the arrays of the inputs and the labels, with the key of the labels; None where there are no labels."""
    stored = stored_arrays(path)
    label = _label_key(list(stored), [item.name for item in inputs])
    if label is None:
        return None
    arrays = arrays_of(str(path), inputs, {key: array for key, array in stored.items() if key != label}, given)
    answers = stored[label]
    counts = {array.where: (array.shape or (0,))[0] for _, array in arrays} | {
        answers.where: (answers.shape or (0,))[0]
    }
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{where} {count}" for where, count in counts.items())
        raise ModelError(f"samples and labels differ in number: {text}", "give one label for each sample")
    arrays.append((Input(label, answers.dtype, None), answers))
    return ArrayPart(str(path), tuple(arrays)), label


def _label_key(keys: Sequence[str], names: Sequence[str]) -> str | None:
    others = [key for key in keys if key not in names]
    usual = [key for key in others if key in LABELS]
    if len(usual) > 1:
        raise UsageError(f"the evaluation data have several labels: {', '.join(sorted(usual))}", "leave one of them")
    if usual:
        return usual[0]
    complete = all(name in keys for name in names)
    return others[0] if complete and len(others) == 1 else None

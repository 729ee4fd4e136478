"""More images out of few: each as it is, mirrored, and zoomed in on random parts.

Of a few hundred images the late layers of a network see fewer rows than directions; other looks at the same images
show more of those directions, as they do in training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onnxlr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnxlr.calibration.parts import Part
    from onnxlr.calibration.source import Source
    from onnxlr.target import Input

Array = np.ndarray[Any, Any]
Layout = Literal["NCHW", "NHWC"]

LEAST_AREA = 0.5
"""The smallest part of an image that is zoomed in on."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of an image, as shares of its height and width, and whether it is mirrored."""

    top: float = 0.0
    left: float = 0.0
    side: float = 1.0
    mirrored: bool = False


def crop_of(seed: int, sample: int, copy: int) -> Crop:
    """Return what one copy shows: the image itself, its mirror image, then random parts, each sample its own."""
    if copy < 2:
        return Crop(mirrored=copy == 1)
    rng = np.random.default_rng([seed, sample, copy])
    side = float(np.sqrt(rng.uniform(LEAST_AREA, 1.0)))
    top, left = rng.uniform(0.0, 1.0 - side, 2).tolist()
    return Crop(top, left, side, bool(rng.random() < 0.5))


def cropped(image: Array, crop: Crop, layout: Layout) -> Array:
    """Return this part of an image, (c, h, w) or (h, w, c), in the image's size and dtype; bilinear."""
    planes = image if layout == "NCHW" else np.moveaxis(image, -1, 0)
    if crop.side < 1.0:
        height, width = planes.shape[1:]
        down, across = _zoom(height, crop.top, crop.side), _zoom(width, crop.left, crop.side)
        zoomed = down @ planes.astype(np.float32) @ across.T
        planes = (np.rint(zoomed) if image.dtype.kind in "iu" else zoomed).astype(image.dtype)
    if crop.mirrored:
        planes = planes[:, :, ::-1]
    return planes if layout == "NCHW" else np.moveaxis(planes, 0, -1)


def _zoom(size: int, start: float, side: float) -> Array:
    """Return the (size, size) matrix that stretches the part from ``start`` to ``start`` + ``side`` over the whole."""
    centres = (np.arange(size) + 0.5) * side + start * size - 0.5
    inside = np.clip(centres, 0.0, size - 1.0)
    before = np.minimum(inside.astype(np.int64), max(size - 2, 0))
    share = (inside - before).astype(np.float32)
    matrix = np.zeros((size, size), np.float32)
    rows = np.arange(size)
    matrix[rows, before] = 1.0 - share
    matrix[rows, np.minimum(before + 1, size - 1)] += share
    return matrix


@dataclass(frozen=True, slots=True)
class CopiedPart:
    """``part`` with every sample ``copies`` times, side by side; all inputs of a sample are looked at alike."""

    part: Part
    copies: int
    seed: int
    layout: Layout

    @property
    def where(self) -> str:
        """What a message calls it."""
        return self.part.where

    @property
    def reading(self) -> str:
        """What decides the samples beside the files."""
        return f"{self.copies} copies {self.seed} {self.layout} {self.part.reading}"

    @property
    def count(self) -> int:
        """Number of samples, copies among them."""
        return self.part.count * self.copies

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of one sample, by input name."""
        return self.part.shapes

    def read(self, chosen: Sequence[int], size: int) -> Iterator[dict[str, Array]]:
        """Read the copies of the rising indices ``chosen``, at most ``size`` at a time."""
        wanted: dict[int, list[int]] = {}
        for index in chosen:
            sample, copy = divmod(index, self.copies)
            wanted.setdefault(sample, []).append(copy)
        samples = iter(wanted.items())
        for block in self.part.read(list(wanted), max(size // self.copies, 1)):
            count = len(next(iter(block.values())))
            crops = [
                (place, crop_of(self.seed, sample, copy))
                for place, (sample, copies) in enumerate(islice(samples, count))
                for copy in copies
            ]
            for start in range(0, len(crops), size):
                yield {
                    name: np.stack(
                        [cropped(array[place], crop, self.layout) for place, crop in crops[start : start + size]]
                    )
                    for name, array in block.items()
                }


def copied(source: Source, inputs: Sequence[Input], copies: int, seed: int, layout: Layout) -> Source:
    """Return ``source`` with every sample ``copies`` times, one copy after the other.

    Raises
    ------
    UsageError
        Inputs that are no images.
    """
    if copies == 1:
        return source
    for item in inputs:
        if len(source.shapes[item.name]) != 3:
            raise UsageError(f"--copies is for images, and the input {item} takes none", "leave it out")
    parts = tuple(CopiedPart(part, copies, seed, layout) for part in source.parts)
    chosen = [sample * copies + copy for sample in source.chosen for copy in range(copies)]
    notes = (*source.notes, f"each of {source.count} images is looked at {copies} times")
    return replace(source, parts=parts, chosen=chosen, notes=notes)

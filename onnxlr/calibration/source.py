"""A source of samples: read as often as needed, always in the same order, a batch in memory at a time."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from onnxlr.calibration.images import ImageOptions
from onnxlr.calibration.memory import Memory
from onnxlr.calibration.rebatch import rebatch
from onnxlr.errors import ModelError, UsageError
from onnxlr.target.feeds import check_feedable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnxlr.calibration.parts import Part
    from onnxlr.target import Input

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Which samples to use, and how images become arrays.

    Parameters
    ----------
    samples
        Number of samples; None for all. From files they are drawn by ``seed`` without replacement and kept in the
        order of the data: files are often sorted by class, where the first ones would not stand for all. What is drawn
        for a smaller number is part of what is drawn for a larger one. From an iterable, which has no known end, they
        are the first.
    seed
        Of that draw.
    image
        For folders of images.
    memory
        What working on the samples may take.
    varied
        Whether samples may differ in the sizes that the model leaves free; a batch then holds samples of one size.
    copies
        How often each image is looked at, see :mod:`onnxlr.calibration.copies`.

    Raises
    ------
    UsageError
        ``samples`` or ``copies`` below 1, or ``seed`` below 0.
    """

    samples: int | None = None
    seed: int = 0
    image: ImageOptions = field(default_factory=ImageOptions)
    memory: Memory = field(default_factory=Memory)
    varied: bool = False
    copies: int = 1

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise UsageError(f"--samples {self.samples}: at least one sample is needed")
        if self.copies < 1:
            raise UsageError(f"--copies {self.copies}: each image is needed once at least")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: a seed is 0 or more")


class Resource(Protocol):
    """What a source holds until it is closed."""

    def close(self) -> None:
        """Let go of it; a second time does nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Samples for a model's inputs: iterable again and again, same order each time, streamed.

    A context manager: what it holds (the copy of a one-shot iterable) is let go at the end.

    Parameters
    ----------
    parts
        Where the samples are, in order.
    chosen
        Indices of the samples to use, over all parts, rising.
    batch
        The number of samples the model fixes; every batch has exactly that many. None: free.
    notes
        What a report should tell, such as samples that are left out.
    resource
        What to close in the end.
    memory
        What working on the samples may take.
    """

    parts: tuple[Part, ...]
    chosen: Sequence[int]
    batch: int | None
    notes: tuple[str, ...] = ()
    resource: Resource | None = None
    memory: Memory = field(default_factory=Memory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove temporary files; the source cannot be read any more, nor one made from it."""
        if self.resource is not None:
            self.resource.close()

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.chosen)

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Shape of one sample, by input name, without the axis of samples."""
        return self.parts[0].shapes

    def only(self, positions: Sequence[int]) -> Source:
        """Take the samples at these rising positions among those of this source.

        Raises
        ------
        ModelError
            No sample, or fewer than the batch that the model fixes.
        """
        chosen = positions if self.chosen == range(self.count) else [self.chosen[place] for place in positions]
        return _whole_batches(replace(self, chosen=chosen))

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        """Read all samples in order, ``size`` at a time along the first axis of every input; the last may be smaller.

        Where the model fixes a batch, ``size`` gives way to it. The samples and their order do not depend on it. About
        two batches are in memory at a time.

        Raises
        ------
        UsageError
            ``size`` below 1.
        ModelError
            A sample cannot be read, or has a value that its input does not take.
        """
        if size < 1:
            raise UsageError(f"a batch of {size}: at least one sample is needed")
        size = self.batch or size
        return rebatch(self._pieces(size), size)

    def _pieces(self, size: int) -> Iterator[dict[str, Array]]:
        ends = list(accumulate(part.count for part in self.parts))
        for part, end in zip(self.parts, ends, strict=True):
            begin = end - part.count
            mine = self.chosen[bisect_left(self.chosen, begin) : bisect_left(self.chosen, end)]
            if mine:
                inside = (
                    range(mine.start - begin, mine.stop - begin)
                    if isinstance(mine, range) and mine.step == 1
                    else [index - begin for index in mine]
                )
                yield from part.read(inside, size)


def make_source(
    where: str, parts: Sequence[Part], inputs: Sequence[Input], samples: int | None, seed: int, *, varied: bool = False
) -> Source:
    """Put parts together and draw the samples to use, see ``DataOptions``.

    Raises
    ------
    ModelError
        Parts whose samples differ in shape where they may not be ``varied`` or the model fixes a batch, sizes of one
        symbol that differ, no sample, fewer than the fixed batch.
    """
    for part in parts:
        if not varied or _fixed_batch(inputs) is not None:
            _check_same(parts[0], part)
        _check_symbols(where, inputs, part.shapes)
    count = sum(part.count for part in parts)
    if not count:
        raise ModelError(f"{where} has 0 samples", "give at least one")
    batch = _fixed_batch(inputs)
    notes = (f"{where} has {count} samples, {samples} were asked for",) if samples and samples > count else ()
    source = Source(tuple(parts), range(count), batch, notes)
    if samples is None or samples >= count:
        return source.only(range(count))
    drawn = np.random.default_rng(seed).permutation(count)[:samples]
    return source.only(sorted(map(int, drawn)))


def check_inputs(inputs: Sequence[Input]) -> None:
    """Refuse a model that samples cannot be fed to.

    Raises
    ------
    ModelError
        No input, an element type NumPy does not have, or inputs with different fixed batches.
    """
    if not inputs:
        raise ModelError("the model has no input to feed", "data are of no use to it")
    for item in inputs:
        check_feedable(item)
    _fixed_batch(inputs)


def _fixed_batch(inputs: Sequence[Input]) -> int | None:
    """Tell the number of samples that the inputs fix, or None."""
    sizes = {size for item in inputs if item.dims for size in item.dims[:1] if isinstance(size, int)}
    if len(sizes) > 1 or 0 in sizes:
        text = ", ".join(map(str, inputs))
        raise ModelError(f"the model's inputs do not share a batch axis, so samples cannot be stacked: {text}")
    return next(iter(sizes), None)


def _whole_batches(source: Source) -> Source:
    """Leave out the samples that do not fill a batch of the size the model fixes, and note it."""
    batch = source.batch or 1
    rest = source.count % batch
    if source.count < batch:
        raise ModelError(f"{source.count} samples do not fill one batch of {batch}, which the model fixes", "give more")
    if not rest:
        return source
    note = f"the last {rest} samples are left out: the model takes batches of {batch}"
    return replace(source, chosen=source.chosen[: source.count - rest], notes=(*source.notes, note))


def _check_same(first: Part, other: Part) -> None:
    for name, shape in first.shapes.items():
        if other.shapes[name] != shape:
            mine, its = "x".join(map(str, shape)), "x".join(map(str, other.shapes[name]))
            raise ModelError(
                f"the samples of {other.where} are {its}, those of {first.where} {mine}, for the input '{name}'",
                "give all the same shape",
            )


def _check_symbols(where: str, inputs: Sequence[Input], shapes: Mapping[str, Shape]) -> None:
    """See that a free size that several inputs share is the same in all; the batch is."""
    seen: dict[str, tuple[str, int]] = {}
    for item in inputs:
        for dim, size in zip((item.dims or ())[1:], shapes[item.name], strict=False):
            if isinstance(dim, str) and dim != "?":
                name, before = seen.setdefault(dim, (item.name, size))
                if before != size:
                    raise ModelError(
                        f"{where}: the size '{dim}' is {before} in the samples for the input '{name}', {size} in those"
                        f" for '{item.name}'",
                        "the model wants them equal",
                    )

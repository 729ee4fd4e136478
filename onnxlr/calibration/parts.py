"""Files of samples, and what is read like one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from onnxlr.calibration.fit import cast

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnxlr.calibration.arrays import StoredArray
    from onnxlr.target import Input

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


class Part(Protocol):
    """A file, or what is read like one: ``count`` samples, each input's of shape ``shapes`` (no sample axis)."""

    @property
    def where(self) -> str:
        """What a message calls it."""
        ...

    @property
    def reading(self) -> str:
        """What decides the samples beside the size and the time of what is at ``where``."""
        ...

    @property
    def count(self) -> int:
        """Number of samples."""
        ...

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Shape of one sample, by input name."""
        ...

    def read(self, chosen: Sequence[int], size: int) -> Iterator[dict[str, Array]]:
        """Read the samples of the rising indices ``chosen``, at most ``size`` at a time, cast and checked."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ArrayPart:
    """Arrays that go together: one per input, as many samples in each, which ``open_source`` checks."""

    where: str
    arrays: tuple[tuple[Input, StoredArray], ...]

    @property
    def reading(self) -> str:
        """What decides the samples beside the files: nothing."""
        return ""

    @property
    def count(self) -> int:
        """Number of samples."""
        return self.arrays[0][1].shape[0]

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Shape of one sample, by input name."""
        return {item.name: array.shape[1:] for item, array in self.arrays}

    def read(self, chosen: Sequence[int], size: int) -> Iterator[dict[str, Array]]:
        """Read the samples of the rising indices ``chosen``, at most ``size`` at a time, cast and checked."""
        streams = [array.rows(chosen, size) for _, array in self.arrays]
        for start, rows in zip(range(0, len(chosen), size), zip(*streams, strict=True), strict=True):
            indices = chosen[start : start + size]
            yield {
                item.name: cast(array.where, item, block, indices)
                for (item, array), block in zip(self.arrays, rows, strict=True)
            }

"""Feeds to compare models on, from the same kinds of data that calibration reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.calibration import open_source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onnxlr.calibration import DataOptions
    from onnxlr.target import Input

Array = np.ndarray[Any, Any]

_BATCH = 16  # samples a feed where the model leaves the batch free


def feeds_from_data(
    path: Path, inputs: Sequence[Input], shapes: Mapping[str, Sequence[int]], options: DataOptions
) -> tuple[dict[str, Array], ...]:
    """Read the samples at ``path`` into memory as feeds of as many samples as the model fixes, or up to 16.

    ``shapes`` are full shapes given for inputs, by name; where none is, the data decide.

    Raises
    ------
    OnnxlrError
        See ``onnxlr.calibration.open_source``.
    """
    with open_source(path, inputs, shapes, options) as source:
        return tuple(source.batches(_BATCH))

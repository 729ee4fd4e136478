"""One pass of the original network over the data: what every layer sees, and what it answers there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.calibration.positions import draw, patches, values
from onnxlr.calibration.statistics import Moments
from onnxlr.calibration.walker import Walker, fixed_nodes
from onnxlr_passes.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import onnx

    from onnxlr.target import Feeds, Target
    from onnxlr_passes.extents import Extent
    from onnxlr_passes.sites import Site

    Array = np.ndarray[Any, np.dtype[Any]]
    Ints = np.ndarray[Any, np.dtype[np.int64]]

ROWS = 8192
"""Rows wanted per layer: positions are added until there are as many, or none is left."""


@dataclass(frozen=True, slots=True)
class Place:
    """A layer in the main graph: its input, and the Add behind it with the other operand, where it feeds just that."""

    site: Site
    value: str
    joined: str | None
    other: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What one layer saw and answered in the original network.

    ``moments`` of its input patches; ``answers`` (rows, T) its outputs at ``positions``, ``sums`` those of the Add.
    """

    moments: Moments
    answers: Array
    sums: Array | None


def places(model: onnx.ModelProto, sites: Sequence[Site]) -> tuple[Place, ...]:
    """Return where the sites of the main graph stand; those in bodies and functions, or on constants, are left out."""
    main = scopes(model)[0]
    constants = {tensor.name for tensor in model.graph.initializer} | set(fixed_nodes(model.graph))
    found = []
    for site in sites:
        node = main.producer(site.output) if site.scope == "" else None
        if node is None or node.input[0] in constants:
            continue
        readers = main.consumers(site.output)
        joined = other = None
        if len(readers) == 1 and readers[0].op_type == "Add" and not main.is_output(site.output):
            others = [name for name in readers[0].input if name != site.output]
            if len(others) == 1 and others[0] not in constants:
                joined, other = readers[0].output[0], others[0]
        found.append(Place(site, node.input[0], joined, other))
    return tuple(found)


def names_of(place: Place) -> list[str]:
    """Return the tensors that are looked at for a place."""
    return [name for name in (place.value, place.site.output, place.joined, place.other) if name is not None]


def rows_of(place: Place, x: Array, where: Ints) -> Array:
    """Return the layer's input rows (g, rows, S taps); a linear layer's are those of its input's last axis."""
    if place.site.op == "Conv":
        return patches(_wide(x), place.site.geometry, _for_each(x, where))
    return _wide(x).reshape(1, -1, x.shape[-1])


def answers_of(place: Place, y: Array, where: Ints) -> Array:
    """Return the layer's output rows (rows, T) that belong to ``rows_of``."""
    return values(_wide(y), _for_each(y, where)) if place.site.op == "Conv" else _wide(y).reshape(-1, y.shape[-1])


def moments_of(place: Place, rows: Array) -> Moments:
    """Return the moments of the layer's input rows; a MatMul has no bias that could make up for a mean."""
    moments = Moments.of(rows)
    return moments.uncentred() if place.site.op == "MatMul" else moments


def _wide(x: Array) -> Array:
    """Return ``x`` in a type that sums of products can be taken in."""
    return x.astype(np.float32) if x.dtype.itemsize < np.dtype(np.float32).itemsize else x


def _for_each(x: Array, where: Ints) -> Ints:
    """Return positions for every entry of the first axis of ``x``, also where that is not one per sample."""
    n, samples = len(x), len(where)
    return where if n == samples else where[np.arange(n) * samples // max(n, 1)]


def positions_of(place: Place, extent: Extent, first: int, samples: int, total: int, seed: int) -> Ints:
    """Return the output positions looked at for ``samples`` samples from ``first`` on, of ``total`` in all."""
    size = place.site.geometry.output_size(extent.size)
    return draw(first, samples, size, -(-ROWS // max(total, 1)), seed)


def observe(
    model: onnx.ModelProto,
    folder: Path | None,
    target: Target,
    batches: Sequence[Feeds],
    looks: Sequence[tuple[Place, tuple[Ints, ...]]],
    progress: Callable[[float], None],
) -> dict[str, Seen]:
    """Walk the original model over ``batches`` and gather every place's moments and answers.

    ``looks`` pairs each place with its positions, one array per batch.
    """
    walker = Walker(model, folder, target, batches)
    found: dict[str, Seen] = {}
    for done, (place, where) in enumerate(looks, start=1):
        walker.hold = {name for later, _ in looks[done:] for name in names_of(later)}
        walker.advance(names_of(place))
        rows: list[Array] = []
        answers, sums = [], []
        for i, positions in enumerate(where):
            rows.append(rows_of(place, walker.known[place.value][i], positions))
            answers.append(answers_of(place, walker.known[place.site.output][i], positions))
            if place.joined is not None and _same_shape(walker, place, i):
                sums.append(answers_of(place, walker.known[place.joined][i], positions))
        complete = np.concatenate(sums) if len(sums) == len(where) else None
        found[place.site.key] = Seen(moments_of(place, np.concatenate(rows, axis=1)), np.concatenate(answers), complete)
        progress(done / len(looks))
    return found


def _same_shape(walker: Walker, place: Place, batch: int) -> bool:
    """Whether the other operand of the Add is as large as the layer's output, not broadcast to it."""
    if place.other is None:
        return False
    return bool(walker.known[place.other][batch].shape == walker.known[place.site.output][batch].shape)

"""One pass of the original network over the data: what every layer sees, and what it answers there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.calibration.activation import Activation, activation_behind
from onnxlr.calibration.positions import Look, patches, values
from onnxlr.calibration.statistics import Moments, lifted
from onnxlr.calibration.store import Store, read
from onnxlr.calibration.walker import Walker, fixed_nodes
from onnxlr.schemes.metric import Covariance, Rows
from onnxlr_passes.constants import Constants
from onnxlr_passes.scopes import scopes
from onnxlr_passes.sites import attribute

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    import onnx

    from onnxlr.calibration.memory import Memory
    from onnxlr.calibration.store import Filed
    from onnxlr.schemes.metric import Metric
    from onnxlr.target import Feeds, Target
    from onnxlr_passes.scopes import Scope
    from onnxlr_passes.sites import Site

    Array = np.ndarray[Any, np.dtype[Any]]
    Ints = np.ndarray[Any, np.dtype[np.int64]]

ROWS, ROWS_PER_COLUMN = 32_768, 8
"""Rows wanted per layer, at least, and per column of its patches: positions are added until there are as many."""

UNSEEN = 1e-2
"""Ridge, relative to the mean variance, for every direction per row."""


@dataclass(frozen=True, slots=True)
class Place:
    """A layer in the main graph: its input, and the Add behind it with the other operand, where it feeds just that.

    A Gemm that adds what is no bias is a product with the Add in it: ``joined`` is then its own output.
    ``activation`` is what alone reads the Add or, without one, the layer, and hides part of it.
    """

    site: Site
    value: str
    joined: str | None
    other: str | None
    activation: Activation | None


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What one layer saw and answered in the original network; large parts of it may be on disk.

    ``count`` rows were seen, of ``mean`` (g, D); ``spread`` is their covariance (g, D, D) or, where that would be too
    large, the rows themselves less their mean, (g, count, D). The rest is the layer's answers, without what it adds
    that is no bias, and those of the Add.
    """

    count: int
    mean: Array
    spread: Array | Filed
    wide: bool
    own: Array | Filed
    joined: Array | Filed | None

    def metric(self) -> Metric:
        """Return the metric to choose and fit by, with a ridge: more where few rows show many directions."""
        share = ridge_of(self.mean.shape[1], self.count)
        spread = read(self.spread)
        if not self.wide:
            return Covariance(lifted(spread, share), self.mean)
        variance = np.einsum("gnd,gnd->g", spread, spread, dtype=np.float64) / max(spread[0].size, 1)
        return Rows(spread, self.mean, share * variance)

    @property
    def answers(self) -> Array:
        """Outputs (rows, T)."""
        return read(self.own)

    @property
    def sums(self) -> Array | None:
        """Outputs (rows, T) of the Add, where the layer feeds just one and the operands are of one shape."""
        return None if self.joined is None else read(self.joined)


def ridge_of(columns: int, count: int) -> float:
    """Return the ridge, relative to the mean variance, where ``count`` rows of ``columns`` were seen."""
    return 1e-3 + UNSEEN * columns / max(count, 1)


def places(model: onnx.ModelProto, folder: Path | None, sites: Sequence[Site]) -> tuple[Place, ...]:
    """Return where the sites of the main graph stand.

    Left out are those in bodies and functions, those on constants, and those that add what is no bias in a way that
    cannot be told apart from the layer. ``folder`` is where external data lies.
    """
    main, known = scopes(model)[0], Constants(model, folder)
    constants = {tensor.name for tensor in model.graph.initializer} | set(fixed_nodes(model.graph))
    constants |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    found = []
    for site in sites:
        node = main.producer(site.output) if site.scope == "" else None
        if node is None or node.input[0] in constants:
            continue
        joined, other = _sum_of(main, site, node, constants)
        if site.adds and joined is None:
            continue
        channels = 0 if site.op == "MatMul" else site.out_channels
        activation = activation_behind(known, main, joined or site.output, channels)
        found.append(Place(site, node.input[0], joined, other, activation))
    return tuple(found)


def _sum_of(main: Scope, site: Site, node: onnx.NodeProto, constants: Collection[str]) -> tuple[str | None, str | None]:
    """Return the sum of the layer and one other operand, and that, where nothing else sees the layer alone."""
    if site.adds:
        plain = site.op == "Gemm" and attribute(node, "beta", 1.0) == 1.0 and node.input[2] not in constants
        return (site.output, node.input[2]) if plain else (None, None)
    readers = main.consumers(site.output)
    if len(readers) == 1 and readers[0].op_type == "Add" and not main.is_output(site.output):
        others = [name for name in readers[0].input if name != site.output]
        if len(others) == 1 and others[0] not in constants:
            return readers[0].output[0], others[0]
    return None, None


def names_of(place: Place) -> list[str]:
    """Return the tensors that are looked at for a place."""
    return [name for name in (place.value, place.site.output, place.joined, place.other) if name is not None]


def rows_of(place: Place, x: Array, look: Look) -> Array:
    """Return the layer's input rows (g, rows, S taps); a linear layer's are those of its input's last axis."""
    x = _wide(x)
    if place.site.op != "Conv":
        return _entries(x, look)[None]
    geometry = place.site.geometry
    return patches(x, geometry, _for_each(x, look.positions(geometry.output_size(x.shape[2:]))))


def answers_of(place: Place, y: Array, look: Look) -> Array:
    """Return the layer's output rows (rows, T) that belong to ``rows_of``."""
    y = _wide(y)
    return values(y, _for_each(y, look.positions(y.shape[2:]))) if place.site.op == "Conv" else _entries(y, look)


def moments_of(place: Place, rows: Array) -> Moments:
    """Return the moments of the layer's input rows; without a bias nothing could make up for a mean."""
    moments = Moments.of(rows)
    return moments if place.site.biased else moments.uncentred()


def gather(place: Place, shelf: Sequence[Array], looks: Sequence[Look]) -> Array:
    """Return ``rows_of`` all batches, (g, rows, S taps)."""
    return np.concatenate([rows_of(place, shelf[i], look) for i, look in enumerate(looks)], axis=1)


def _entries(x: Array, look: Look) -> Array:
    """Return rows along the last axis of ``x``, no more than are looked at."""
    flat = x.reshape(-1, x.shape[-1])
    return flat[look.entries(len(flat))]


def _wide(x: Array) -> Array:
    """Return ``x`` in a type that sums of products can be taken in."""
    return x.astype(np.float32) if x.dtype.itemsize < np.dtype(np.float32).itemsize else x


def _for_each(x: Array, where: Ints) -> Ints:
    """Return positions for every entry of the first axis of ``x``, also where that is not one per sample."""
    n, samples = len(x), len(where)
    return where if n == samples else where[np.arange(n) * samples // max(n, 1)]


def positions_each(columns: int, samples: int) -> int:
    """Return how many positions of every sample make up the rows that patches of ``columns`` want."""
    return -(-max(ROWS, ROWS_PER_COLUMN * columns) // samples)


def looks_at(place: Place, counts: Sequence[int], memory: Memory, seed: int) -> tuple[Look, ...]:
    """Return what is looked at in batches of ``counts`` samples: ``ROWS`` rows or more, fewer of a wide layer.

    Where even one row per sample would be too much, whole batches are passed over.
    """
    geometry = place.site.geometry
    columns = place.site.in_channels * geometry.taps
    total = max(sum(counts), 1)
    most = memory.rows(geometry.group, columns)
    each = positions_each(columns, total)
    if most < each * total:
        each = max(most // total, 1)
    every = max(-(-total // most), 1) if each == 1 else 1
    firsts = np.cumsum([0, *counts]).tolist()
    return tuple(
        Look(first, count, each if i % every == 0 else 0, seed)
        for i, (first, count) in enumerate(zip(firsts[:-1], counts, strict=True))
    )


def observe(
    model: onnx.ModelProto,
    folder: Path | None,
    target: Target,
    batches: Sequence[Feeds],
    looks: Sequence[tuple[Place, tuple[Look, ...]]],
    memory: Memory,
    progress: Callable[[float], None],
) -> dict[str, Seen]:
    """Walk the original model over ``batches`` and gather what every place saw and answered.

    ``looks`` pairs each place with what is looked at, batch by batch.
    """
    walker = Walker(model, folder, target, batches, memory)
    store = Store(memory.statistics)
    found: dict[str, Seen] = {}
    for done, (place, where) in enumerate(looks, start=1):
        walker.hold = {name for later, _ in looks[done:] for name in names_of(later)}
        walker.advance(names_of(place))
        known = walker.known
        rows = gather(place, known[place.value], where)
        count, mean, spread = _statistics(place, rows, memory)
        del rows
        own = [answers_of(place, _alone(walker, place, i), look) for i, look in enumerate(where)]
        sums = None
        if place.joined is not None and all(_same_shape(walker, place, i) for i in range(len(where))):
            sums = [answers_of(place, known[place.joined][i], look) for i, look in enumerate(where)]
        found[place.site.key] = Seen(
            count,
            mean,
            store.keep(spread),
            wide_layer(place, memory),
            store.keep(np.concatenate(own)),
            None if sums is None else store.keep(np.concatenate(sums)),
        )
        progress(done / len(looks))
    return found


def wide_layer(place: Place, memory: Memory) -> bool:
    """Whether the covariance of a layer's patches is too large to be formed."""
    geometry = place.site.geometry
    return memory.wide(geometry.group, place.site.in_channels // geometry.group * geometry.taps)


def _statistics(place: Place, rows: Array, memory: Memory) -> tuple[int, Array, Array]:
    """Return how many rows there are, their mean, and their covariance or themselves less their mean."""
    if not wide_layer(place, memory):
        moments = moments_of(place, rows)
        return moments.count, moments.mean, moments.covariance
    return rows.shape[1], centre(place, rows), rows


def centre(place: Place, rows: Array) -> Array:
    """Take the mean of ``rows`` (g, n, D) out of them, in place, and return it; without a bias it stays, as 0."""
    if not place.site.biased:
        return np.zeros((rows.shape[0], rows.shape[2]))
    mean: Array = rows.mean(axis=1, dtype=np.float64)
    rows -= mean[:, None, :].astype(rows.dtype)
    return mean


def _alone(walker: Walker, place: Place, batch: int) -> Array:
    """Return a layer's output without what it adds that is no bias."""
    whole: Array = walker.known[place.site.output][batch]
    if not place.site.adds or place.other is None:
        return whole
    return _wide(whole) - _wide(walker.known[place.other][batch])


def _same_shape(walker: Walker, place: Place, batch: int) -> bool:
    """Whether the other operand of the Add is as large as the layer's output, not broadcast to it."""
    if place.other is None:
        return False
    return bool(walker.known[place.other][batch].shape == walker.known[place.site.output][batch].shape)

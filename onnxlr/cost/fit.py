"""Latency of chains that were not timed, from others of the same build: linear in the MACs of each stage.

Within one layer's place, chains of one family differ only in how many channels run between their stages. As long as
those fill whole blocks of the runtime's kernels, the time of each stage is nearly proportional to its multiply-adds,
with one constant for what does not depend on the ranks. Channels that do not fill a block take another kernel, or leave
the blocked layout altogether: a chain with such a stage is only compared with those that have the same number there.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import nnls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxlr_passes.chain import Chain

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Kin:
    """Chains that can stand for one another, by index: ``sample`` is timed and fitted, ``held`` timed to judge the fit.

    ``rest`` is predicted; empty where the kin are so few that all are timed.
    """

    sample: tuple[int, ...]
    held: tuple[int, ...]
    rest: tuple[int, ...]


def kin(chains: Sequence[Chain], size: tuple[int, ...], block: int, extra: int) -> tuple[Kin, ...]:
    """Sort chains by build, and choose which to time: ``extra`` more than the fit has unknowns, spread over the ranks.

    One more is held out of the fit, the one furthest from those in it. ``size`` is the layer's spatial input size and
    ``block`` the runtime's channel block.
    """
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, chain in enumerate(chains):
        groups[_build(chain, block)].append(index)
    found = []
    for members in groups.values():
        features = np.array([stage_macs(chains[index], size) for index in members])
        fitted = 1 + features.shape[1] + extra
        order = [members[i] for i in _far_apart(features)]
        if len(order) <= fitted + 1:
            found.append(Kin(tuple(order), (), ()))
        else:
            found.append(Kin(tuple(order[:fitted]), (order[fitted],), tuple(order[fitted + 1 :])))
    return tuple(found)


def predict(known: Array, seconds: Array, wanted: Array) -> Array:
    """Predict the latencies of ``wanted`` (n, stages) from ``known`` (m, stages) that took ``seconds`` (m,).

    Least squares of the relative error with coefficients of no sign but plus: more work never takes less time.
    """
    scale = np.maximum(known.max(axis=0), 1.0)

    def terms(macs: Array) -> Array:
        return np.hstack([np.ones((len(macs), 1)), macs / scale])

    coefficients, _ = nnls(terms(known) / seconds[:, None], np.ones(len(seconds)))
    return np.asarray(terms(wanted) @ coefficients, dtype=np.float64)


def stage_macs(chain: Chain, size: tuple[int, ...]) -> tuple[float, ...]:
    """Return the multiply-adds of every stage for one sample of spatial input size ``size``."""
    found: list[float] = []
    for step in chain.steps:
        found += [float(stage.macs(size)) for stage in step]
        size = step[0].geometry.output_size(size)
    return tuple(found)


def _build(chain: Chain, block: int) -> tuple[Any, ...]:
    """Return what chains must share to be kin: every stage's geometry, and its channels where they fill no blocks."""
    return tuple(
        tuple(
            (
                stage.geometry.kernel,
                stage.geometry.strides,
                stage.tile,
                stage.weight.shape[1] == 1,
                stage.out_channels if stage.out_channels % block else 0,
            )
            for stage in step
        )
        for step in chain.steps
    )


def _far_apart(features: Array) -> list[int]:
    """Order points so that each is as far as can be from those before it, the one with the least work first."""
    spread = np.ptp(features, axis=0)
    points = (features - features.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    order = [int(np.argmin(points.sum(axis=1)))]
    nearest = np.full(len(points), np.inf)
    while len(order) < len(points):
        nearest = np.minimum(nearest, np.linalg.norm(points - points[order[-1]], axis=1))
        nearest[order] = -1.0
        order.append(int(np.argmax(nearest)))
    return order

"""How much each layer's error matters to the network's outputs, by disturbing one layer at a time.

A layer loses its weakest output directions, as a factorization would have it, and the rest of the network is run from
there on data held out from all fitting.
"""

from __future__ import annotations

from math import inf, isfinite, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.calibration.walker import Walker
from onnxlr.drafts import answering
from onnxlr.planning.candidates import read_layer
from onnxlr.schemes.basis import Basis
from onnxlr.schemes.fitted import FittedBasis
from onnxlr.validation.numeric import OutputShapeError, differences

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from onnxlr.calibrate import Calibration
    from onnxlr.calibration.observe import Place, Seen
    from onnxlr.prepare import Prepared
    from onnxlr.schemes.observed import View
    from onnxlr.target import Target
    from onnxlr_passes.chain import Chain

    Array = np.ndarray[Any, np.dtype[Any]]

PROBE = 0.15
"""Relative error of a disturbed layer, at least: that of a mild factorization."""

BATCHES = 2
"""Batches the network is run on, for every layer."""

TEMPERED = 3.0
"""Weights of layers are square roots of their sensitivities relative to the median, within this factor of it."""


def sensitivities(
    prepared: Prepared,
    folder: Path | None,
    target: Target,
    calibration: Calibration,
    progress: Callable[[float], None],
) -> dict[str, float]:
    """Return, by site key, the squared relative error of the outputs per squared relative error of the layer's.

    Layers that the data do not reach, or of one output channel, are left out, and those whose disturbance changes the
    shape of an output.
    """
    names = [output.name for output in prepared.proto.graph.output]
    feeds = (calibration.held or calibration.batches)[:BATCHES]
    walker = Walker(prepared.proto, folder, target, feeds, calibration.memory)
    as_it_was = walker.outcome(names, {})
    found: dict[str, float] = {}
    for done, (place, _) in enumerate(calibration.looks, start=1):
        walker.hold = {later.value for later, _ in calibration.looks[done:]}
        walker.advance([place.value])
        probe = _probe(place, calibration.seen[place.site.key], calibration.views[place.site.key])
        if probe is not None:
            chain, error = probe
            lost = apart(as_it_was, walker.outcome(names, {place.site.key: chain}))
            if isfinite(lost):
                found[place.site.key] = lost**2 / error**2
        progress(done / len(calibration.looks))
    return found


def _probe(place: Place, seen: Seen, view: View) -> tuple[Chain, float] | None:
    """Return the layer without its weakest output directions, and its relative error; None where there is but one."""
    layer, scheme = read_layer(place.site), Basis()
    solver = FittedBasis(scheme, view.of(layer))
    ranks = range(scheme.full_rank(layer.shape)[0] - 1, 0, -1)
    rank = next((rank for rank in ranks if solver.error((rank,)) >= PROBE), 1)
    if not ranks or solver.error((rank,)) <= 0.0:
        return None
    return answering(view.back(solver.chain((rank,))), place.site, seen), solver.error((rank,))


def apart(before: Sequence[Sequence[Array]], after: Sequence[Sequence[Array]]) -> float:
    """Return the relative L2 difference of floating-point outputs, each given batch by batch: the largest.

    Infinity where an output has another shape, or values that are not finite.
    """
    kept = [index for index, arrays in enumerate(before) if arrays[0].dtype.kind == "f"]
    names = [str(index) for index in kept]
    try:
        found = differences(names, [before[i] for i in kept], [after[i] for i in kept])
    except OutputShapeError:
        return inf
    return max((inf if one.new_nonfinite else one.relative_l2 for one in found), default=0.0)


def tempered(weights: Mapping[str, float]) -> dict[str, float]:
    """Return the sensitivities' square roots relative to the median, kept within ``TEMPERED`` of 1."""
    middle = float(np.median(list(weights.values()))) if weights else 0.0
    if middle <= 0.0:
        return {}
    return {site: min(max(sqrt(w / middle), 1.0 / TEMPERED), TEMPERED) for site, w in weights.items()}

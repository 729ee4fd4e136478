"""Sequential, asymmetric refit: every layer is fitted to what it now receives, so that it answers as it used to.

Layer after layer, in the order the network runs: inputs come from the network rewritten so far, targets from the
original (Zhang et al. 2015, section 3.3). Layers that stay dense are refitted the same way where something before them
changed: it costs nothing and takes up what the layers before have lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.calibration.observe import Place, Seen, answers_of, gather
from onnxlr.calibration.walker import Walker
from onnxlr.layer_fit import FitOptions, Fitted, Task, fit_layer
from onnxlr.parallel import blas_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import onnx

    from onnxlr.calibration.outlook import Outlook
    from onnxlr.calibration.positions import Look
    from onnxlr.planning.plan import Choice
    from onnxlr.target import Feeds, Target
    from onnxlr_passes.chain import Chain

    Array = np.ndarray[Any, np.dtype[Any]]


def refit(
    model: onnx.ModelProto,
    folder: Path | None,
    target: Target,
    batches: Sequence[Feeds],
    looks: Sequence[tuple[Place, tuple[Look, ...]]],
    seen: Mapping[str, Seen],
    outlooks: Mapping[str, Outlook],
    choices: Mapping[str, Choice],
    drafts: Mapping[str, Chain],
    options: FitOptions,
    progress: Callable[[float], None],
) -> dict[str, Fitted]:
    """Fit every layer of ``looks``, in order; returns the chains by site key, dense ones as chains of one stage.

    A chosen chain is fitted from its draft in ``drafts``, where there is one.
    """
    walker = Walker(model, folder, target, batches, options.memory)
    found: dict[str, Fitted] = {}
    for done, (place, where) in enumerate(looks, start=1):
        key = place.site.key
        choice = choices.get(key)
        if choice is None and not found:
            continue
        walker.hold = {
            name for later, _ in looks[done:] for name in [later.value, *([later.other] if later.other else [])]
        }
        names = [place.value]
        corrected = _correctable(walker, place, seen[key], [p.site.output for p, _ in looks[done - 1 :]])
        if corrected and place.other is not None:
            names.append(place.other)
        walker.advance(names)
        task = _task(walker, place, where, seen[key], outlooks.get(key), options, corrected=corrected)
        with blas_for(task.rows.shape[2]):
            found[key] = fit_layer(task, choice, drafts.get(key))
        walker.replace(key, found[key].chain.untiled())
        progress(done / len(looks))
    return found


def _correctable(walker: Walker, place: Place, seen: Seen, unfitted: Sequence[str]) -> bool:
    """Whether the shortcut's error can be known: its operand depends on no layer that is still to be fitted."""
    if place.other is None or seen.sums is None:
        return False
    return not walker.needs(place.other) & set(unfitted)


def _task(
    walker: Walker,
    place: Place,
    where: Sequence[Look],
    seen: Seen,
    outlook: Outlook | None,
    options: FitOptions,
    *,
    corrected: bool,
) -> Task:
    """Return what the layer now receives and should answer: as it did, plus what its shortcut now lacks."""
    rows = gather(place, walker.known[place.value], where)
    if not corrected or place.other is None or seen.sums is None:
        shift = 0.0 if place.activation is not None and place.joined is None else None
        return Task(place, rows, seen.answers, shift, options, outlook)
    now = np.concatenate([answers_of(place, walker.known[place.other][i], w) for i, w in enumerate(where)])
    return Task(place, rows, seen.sums - now, None if place.activation is None else now, options, outlook)

"""Sequential, asymmetric refit: every layer is fitted to what it now receives, so that it answers as it used to.

Layer after layer, in the order the network runs: inputs x^ come from the network rewritten so far, targets y from the
original (Zhang et al. 2015, section 3.3). The best dense kernel for that, W + (E[y x^T] - W C)(C + lambda)^-1, is then
factorized in the metric of C. Layers that stay dense are refitted the same way where something before them changed: it
costs nothing and takes up what the layers before have lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.calibration.memory import Memory
from onnxlr.calibration.observe import Place, Seen, answers_of, gather, moments_of, wide_layer
from onnxlr.calibration.statistics import lifted
from onnxlr.calibration.walker import Walker
from onnxlr.calibration.wide import fit_wide
from onnxlr.parallel import blas_for
from onnxlr.schemes.base import Layer
from onnxlr.schemes.fitted import Observed, fitted_solver
from onnxlr.schemes.metric import Covariance, solve_right
from onnxlr.schemes.registry import by_name
from onnxlr_passes.chain import Chain, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import onnx

    from onnxlr.calibration.positions import Look
    from onnxlr.planning.plan import Choice
    from onnxlr.target import Feeds, Target

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class RefitOptions:
    """How strongly a refit trusts the sample: ridges relative to the mean variance of the inputs.

    ``pull`` draws the dense kernel back to the original's, ``ridge`` adds to the metric of the factorization.
    """

    pull: float = 3e-3
    ridge: float = 1e-3
    dense_too: bool = True
    memory: Memory = field(default_factory=Memory)


@dataclass(frozen=True, slots=True, eq=False)
class Refitted:
    """A layer's new chain with its bias; ``error`` is sqrt(E||y - y^||^2 / Var y) on the rows it was fitted to.

    For a MatMul, which cannot have a bias, y is taken about zero.
    """

    chain: Chain
    error: float


def refit(
    model: onnx.ModelProto,
    folder: Path | None,
    target: Target,
    batches: Sequence[Feeds],
    looks: Sequence[tuple[Place, tuple[Look, ...]]],
    seen: Mapping[str, Seen],
    choices: Mapping[str, Choice],
    options: RefitOptions,
    progress: Callable[[float], None],
) -> dict[str, Refitted]:
    """Fit every layer of ``looks``, in order; returns the chains by site key, dense ones as chains of one stage."""
    walker = Walker(model, folder, target, batches, options.memory)
    found: dict[str, Refitted] = {}
    for done, (place, where) in enumerate(looks, start=1):
        key = place.site.key
        choice = choices.get(key)
        if choice is None and not (options.dense_too and found):
            continue
        walker.hold = {
            name for later, _ in looks[done:] for name in [later.value, *([later.other] if later.other else [])]
        }
        names = [place.value]
        corrected = _correctable(walker, place, seen[key], [p.site.output for p, _ in looks[done - 1 :]])
        if corrected and place.other is not None:
            names.append(place.other)
        walker.advance(names)
        rows = gather(place, walker.known[place.value], where)
        wanted = _targets(walker, place, where, seen[key], corrected=corrected)
        with blas_for(rows.shape[2]):
            found[key] = _fit(place, rows, wanted, choice, options)
        walker.replace(key, found[key].chain)
        progress(done / len(looks))
    return found


def _correctable(walker: Walker, place: Place, seen: Seen, unfitted: Sequence[str]) -> bool:
    """Whether the shortcut's error can be known: its operand depends on no layer that is still to be fitted."""
    if place.other is None or seen.sums is None:
        return False
    return not walker.needs(place.other) & set(unfitted)


def _targets(walker: Walker, place: Place, where: Sequence[Look], seen: Seen, *, corrected: bool) -> Array:
    """Return what the layer should answer, (rows, T): its old answer, plus what its shortcut now lacks."""
    if not corrected or place.other is None or seen.sums is None:
        return seen.answers
    now = [answers_of(place, walker.known[place.other][i], w) for i, w in enumerate(where)]
    wanted: Array = seen.sums - np.concatenate(now)
    return wanted


def _fit(place: Place, rows: Array, wanted: Array, choice: Choice | None, options: RefitOptions) -> Refitted:
    """Solve for the dense kernel, then factorize it."""
    if wide_layer(place, options.memory):
        chosen = None if choice is None else (by_name(choice.scheme), choice.ranks)
        return Refitted(*fit_wide(place, rows, wanted, chosen, options.pull, options.ridge))
    layer = Layer(place.site.kernel(), place.site.geometry)
    kernel = layer.grouped()
    group, t = kernel.shape[:2]
    moments = moments_of(place, rows)
    covariance, mean = moments.covariance, moments.mean
    answers = wanted.reshape(len(wanted), group, t).transpose(1, 2, 0)
    biased = place.site.op != "MatMul"
    level = answers.mean(axis=2, dtype=np.float64) if biased else np.zeros((group, t))
    apart = answers - level[:, :, None].astype(answers.dtype)
    cross = np.matmul(apart, rows).astype(np.float64) / moments.count
    pulled = lifted(covariance, options.pull)
    flat = kernel.reshape(group, t, -1)
    change = [solve_right(p, x - w @ c) for p, x, w, c in zip(pulled, cross, flat, covariance, strict=True)]
    dense = (flat + np.stack(change)).reshape(layer.weight.shape)
    fitted = Layer(dense, layer.geometry)
    if choice is None:
        chain = Chain(((Stage("refit", dense, layer.geometry),),))
    else:
        observed = Observed(fitted, Covariance(lifted(covariance, options.ridge), mean))
        chain = fitted_solver(by_name(choice.scheme), observed).chain(choice.ranks)
    got = chain.contract(layer.geometry).reshape(group, t, -1)
    bias = (level - np.einsum("gtd,gd->gt", got, mean)).reshape(-1)
    variance = float(np.square(apart).mean(axis=2, dtype=np.float64).sum())
    explained = 2 * float(np.einsum("gtd,gtd->", got, cross)) - float(np.einsum("gtd,gtd->", got @ covariance, got))
    lost = max(variance - explained, 0.0) / variance if variance > 0.0 else 0.0
    return Refitted(chain.with_bias(bias if biased else None), float(np.sqrt(lost)))

"""The refit of a layer whose inputs' covariance would not fit in memory: the same fit, from its rows."""

from __future__ import annotations

from math import inf, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.calibration.observe import UNSEEN, centre
from onnxlr.schemes.base import Layer
from onnxlr.schemes.fitted import fitted_solver
from onnxlr.schemes.metric import Rows, solve_right
from onnxlr.schemes.observed import Observed
from onnxlr_passes.chain import Chain, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxlr.calibration.observe import Place
    from onnxlr.schemes.base import Ranks, Scheme

    Array = np.ndarray[Any, np.dtype[Any]]


def fit_wide(
    place: Place,
    rows: Array,
    wanted: Array,
    choice: tuple[Scheme, Ranks] | None,
    held: int,
    pulls: Sequence[float],
    ridge: float,
) -> tuple[Chain, float]:
    """Return the chain, with its bias, that answers ``wanted`` (n, T) to ``rows`` (g, n, D), and its relative error.

    The dense kernel is W + R (X X^T + pull)^-1 X with R what W lacks: ridge regression in its dual form, n x n where
    the primal one is D x D. It is then factorized by its effect on the rows, or kept where no ``choice`` is given.
    Of ``pulls``, weakest first, each group takes the one that the last ``held`` rows ask for. They and ``ridge`` are
    relative to the mean variance; what few rows leave open of many directions is added to ``ridge``. The mean of
    ``rows`` is taken out in place.
    """
    layer = Layer(place.site.kernel(), place.site.geometry)
    group, t = place.site.geometry.group, layer.shape.T
    biased = place.site.biased
    mean = centre(place, rows)
    n, d = rows.shape[1:]
    variance = np.einsum("gnd,gnd->g", rows, rows, dtype=np.float64) / max(n * d, 1)
    answers = wanted.reshape(n, group, t).transpose(1, 2, 0).astype(np.float64)
    level = answers.mean(axis=2) if biased else np.zeros((group, t))
    answers = answers - level[:, :, None]
    metric = Rows(rows, mean, (ridge + UNSEEN * d / max(n, 1)) * variance)
    kernel = layer.grouped().reshape(group, t, d)
    lacks = answers - metric.answers(kernel)
    change = [
        _through(_pulled(_gram(x), r, held, [pull * n * v or 1.0 for pull in pulls]), x)
        for x, r, v in zip(rows, lacks, variance, strict=True)
    ]
    dense = (kernel + np.stack(change)).reshape(layer.weight.shape)
    if choice is None:
        chain = Chain(((Stage("refit", dense, layer.geometry),),))
    else:
        scheme, ranks = choice
        chain = fitted_solver(scheme, Observed(Layer(dense, layer.geometry), metric)).chain(ranks)
    got = chain.contract(layer.geometry).reshape(group, t, d)
    bias = (level - np.einsum("gtd,gd->gt", got, mean)).reshape(-1)
    total = float(np.square(answers).sum())
    lost = float(np.square(answers - metric.answers(got)).sum())
    return chain.with_bias(bias if biased else None), sqrt(lost / total) if total > 0.0 else 0.0


def _pulled(gram: Array, lacks: Array, held: int, pulls: Sequence[float]) -> Array:
    """Return R (X X^T + pull)^-1, (t, n), of all rows, with the pull that serves the last ``held`` best.

    Stronger ones are tried while they do better; with no rows held out it is the strongest.
    """
    n = len(gram)
    seen = n - held
    best, least = pulls[-1], inf
    for pull in pulls if held else ():
        weights = solve_right(gram[:seen, :seen] + pull * np.eye(seen), lacks[:, :seen])
        lost = float(np.square(lacks[:, seen:] - weights @ gram[:seen, seen:]).sum())
        if lost >= least:
            break
        best, least = pull, lost
    return solve_right(gram + best * np.eye(n), lacks)


def _gram(x: Array) -> Array:
    """Return X X^T of (n, D) in float64, some columns at a time."""
    n, d = x.shape
    total = np.zeros((n, n))
    few = max((1 << 22) // max(n, 1), 1)
    for start in range(0, d, few):
        part = x[:, start : start + few].astype(np.float64)
        total += part @ part.T
    return total


def _through(left: Array, x: Array) -> Array:
    """Return A X of (t, n) and (n, D) in float64, some columns at a time."""
    few = max((1 << 22) // max(len(x), 1), 1)
    parts = [left @ x[:, start : start + few].astype(np.float64) for start in range(0, x.shape[1], few)]
    return np.concatenate(parts, axis=1)

"""Fit one layer: the best dense kernel for what it receives and should answer, factorized in that metric.

The kernel is W + (E[y x^T] - W C)(C + lambda)^-1, with the lambda that rows held out from the fit ask for. Where
nothing but a ReLU reads the layer, targets and fit alternate. What is fitted is kept only if it is better than the
unfitted on the rows held out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import inf, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import cho_solve

from onnxlr.calibration.memory import Memory
from onnxlr.calibration.observe import moments_of, wide_layer
from onnxlr.calibration.statistics import lifted
from onnxlr.calibration.wide import fit_wide
from onnxlr.schemes.base import Layer
from onnxlr.schemes.fitted import fitted_solver, refined
from onnxlr.schemes.metric import Covariance, factor
from onnxlr.schemes.observed import View, levelled
from onnxlr.schemes.registry import by_name
from onnxlr_passes.chain import Chain, Stage

if TYPE_CHECKING:
    from onnxlr.calibration.observe import Place
    from onnxlr.calibration.outlook import Outlook
    from onnxlr.planning.plan import Choice

    Array = np.ndarray[Any, np.dtype[Any]]

HELD_OUT = 16
"""One row in this many, the last ones, is kept back to compare fits on."""

GAIN, EXACT = 5e-3, 1e-5
"""The share of the loss that a stronger pull must take off, and the loss below which there is nothing to take off."""


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How strongly a fit trusts the sample: ridges relative to the mean variance of the inputs.

    A pull draws the dense kernel back to the original's; of ``pulls``, weakest first, a layer takes the one that rows
    held out ask for. ``ridge``, and ``unseen`` for every direction per row, add to the metric of the factorization.
    There is a round through what hides part of the answers for each of the ``weights`` of
    :mod:`onnxlr.calibration.activation`.
    """

    pulls: tuple[float, ...] = (3e-3, 3e-2, 0.3, 3.0, 30.0)
    ridge: float = 1e-3
    unseen: float = 1.0
    weights: tuple[float, ...] = (0.1, 0.3, 1.0)
    memory: Memory = field(default_factory=Memory)


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A layer's new chain with its bias; ``error`` is sqrt(E||y - y^||^2 / Var y) on the rows it was fitted to.

    Where there can be no bias, as in a MatMul, y is taken about zero; behind an activation that hides part of y, y is
    what leaves that.
    """

    chain: Chain
    error: float


@dataclass(frozen=True, eq=False)
class Task:
    """One layer: ``rows`` (g, n, D) it receives and ``wanted`` (n, T) it should answer.

    ``shift`` is what is added to its answer before the activation, (n, T) or a number; None where there is none.
    ``outlook`` says how errors count; without one, all alike.
    """

    place: Place
    rows: Array
    wanted: Array
    shift: Array | float | None
    options: FitOptions
    outlook: Outlook | None = None

    @cached_property
    def layer(self) -> Layer:
        """The layer as it was."""
        return Layer(self.place.site.kernel(), self.place.site.geometry)

    @property
    def biased(self) -> bool:
        """Whether the layer can have a bias."""
        return self.place.site.biased

    @cached_property
    def fitted_rows(self) -> int:
        """How many of the rows are fitted to."""
        n = len(self.wanted)
        return n - n // HELD_OUT

    @property
    def seen(self) -> slice:
        """Those rows."""
        return slice(0, self.fitted_rows)

    @property
    def held(self) -> slice:
        """The rows held out from the fit; of few rows, none."""
        return slice(self.fitted_rows, None)

    @cached_property
    def moments(self) -> tuple[Array, Array]:
        """Covariance (g, D, D) and mean (g, D) of the rows fitted to."""
        moments = moments_of(self.place, self.rows[:, : self.fitted_rows])
        return moments.covariance, moments.mean

    @cached_property
    def pulled(self) -> list[Array]:
        """Lower Cholesky factors (D, D), by group, of what the dense kernel's change is solved with.

        Stronger pulls are taken while each takes ``GAIN`` off the loss on the rows held out; without such rows it is
        the strongest. What a pull leaves undone is alike from layer to layer and adds up, unlike the noise it removes.
        """
        if self.held.start == self.rows.shape[1]:
            return self._drawn(self.options.pulls[-1])
        best: list[Array] = []
        least, lacks = inf, _lacks(self, self.wanted)
        for pull in self.options.pulls:
            lower = self._drawn(pull)
            chain = _levelled(self, _chain(self, _dense(self, lacks, lower), None, None), self.wanted)
            found = self.loss(self.answers(chain, self.held), self.held)
            if found > (1.0 - GAIN) * least or least < EXACT:
                break
            best, least = lower, found
        return best

    def _drawn(self, pull: float) -> list[Array]:
        return [factor(moment) for moment in lifted(self.moments[0], pull)]

    @cached_property
    def view(self) -> View:
        """What chains are fitted by."""
        covariance, mean = self.moments
        turn = None if self.outlook is None else self.outlook.turn
        ridge = self.options.ridge + self.options.unseen * covariance.shape[1] / self.fitted_rows
        return View(Covariance(lifted(covariance, ridge), mean), turn)

    @cached_property
    def _counted(self) -> Array | None:
        """The root (U, U) of how errors of what is compared count."""
        if self.outlook is None:
            return None
        hidden = self.shift is not None and self.place.activation is not None
        turn = self.outlook.turn_behind if hidden else self.outlook.turn
        return turn.there.astype(self.wanted.dtype)

    def answers(self, chain: Chain, rows: slice) -> Array:
        """Return what a chain answers to ``rows``, (their number, T)."""
        group, _, d = self.rows.shape
        kernel = chain.contract(self.layer.geometry).reshape(group, -1, d).astype(self.rows.dtype)
        parts = np.matmul(self.rows[:, rows], kernel.transpose(0, 2, 1)).transpose(1, 0, 2)
        made: Array = parts.reshape(len(parts), -1)
        return made if chain.bias is None else made + chain.bias.astype(made.dtype)

    def loss(self, answers: Array, rows: slice) -> float:
        """Return sqrt(E||y - y^||^2 / Var y) of answers to ``rows``, errors as the rest of the network counts them."""
        aim, made = (self._beyond(part, rows) for part in (self.wanted[rows], answers))
        if self._counted is not None:
            aim, made = aim @ self._counted, made @ self._counted
        return self._relative(aim, made)

    def error(self, answers: Array, rows: slice) -> float:
        """Return the same with all errors alike."""
        return self._relative(self._beyond(self.wanted[rows], rows), self._beyond(answers, rows))

    def _relative(self, aim: Array, made: Array) -> float:
        level = aim.mean(axis=0, dtype=np.float64).astype(aim.dtype) if self.biased else np.zeros((), aim.dtype)
        lost = float(np.square(aim - made).sum(dtype=np.float64))
        total = float(np.square(aim - level).sum(dtype=np.float64))
        return sqrt(lost / total) if total > 0.0 else 0.0

    def _beyond(self, answers: Array, rows: slice) -> Array:
        """Return answers to ``rows`` as the rest of the network sees them."""
        if self.shift is None or self.place.activation is None:
            return answers
        shift = self.shift[rows] if isinstance(self.shift, np.ndarray) else self.shift
        return self.place.activation.of(answers + shift)


def fit_layer(task: Task, choice: Choice | None, draft: Chain | None) -> Fitted:
    """Return the layer's new chain: of one dense stage without a ``choice``, else from a ``draft`` if there is one."""
    place, options = task.place, task.options
    if wide_layer(place, options.memory):
        chosen = None if choice is None else (by_name(choice.scheme), choice.ranks)
        held = len(task.wanted) - task.fitted_rows
        return Fitted(*fit_wide(place, task.rows, task.wanted, chosen, held, options.pulls, options.ridge))
    chain = _solve(task, task.wanted, choice, draft)
    answers = task.answers(chain, slice(None))
    best = _judged(task, chain, answers)
    for weight in options.weights:
        if task.shift is None or place.activation is None:
            break
        wanted = place.activation.closest(task.wanted + task.shift, answers + task.shift, weight) - task.shift
        chain = _solve(task, wanted, choice, chain)
        answers = task.answers(chain, slice(None))
        found = _judged(task, chain, answers)
        if found[0] >= best[0]:
            break
        best = found
    unfitted = _unfitted(task, choice, best[1].chain if draft is None else draft)
    return min(best, _judged(task, unfitted, task.answers(unfitted, slice(None))), key=lambda found: found[0])[1]


def _judged(task: Task, chain: Chain, answers: Array) -> tuple[float, Fitted]:
    """Return what a chain loses on the rows held out, or on all of few, and the chain with its error on the others."""
    judges = task.held if task.held.start < len(task.wanted) else task.seen
    return task.loss(answers[judges], judges), Fitted(chain, task.error(answers[task.seen], task.seen))


def _solve(task: Task, wanted: Array, choice: Choice | None, before: Chain | None) -> Chain:
    """Solve for the dense kernel, then factorize it, from the chain ``before`` where there is one."""
    dense = _dense(task, _lacks(task, wanted), task.pulled)
    return _levelled(task, _chain(task, dense, choice, before), wanted)


def _lacks(task: Task, wanted: Array) -> list[Array]:
    """Return E[y x^T] - W C, (T, D) by group: what the kernel lacks of what is ``wanted``."""
    group, _, d = task.rows.shape
    covariance, _ = task.moments
    n, t = task.fitted_rows, task.layer.shape.T
    answers = wanted[:n].reshape(n, group, t).transpose(1, 2, 0)
    apart = answers - _level(task, wanted).reshape(group, t, 1).astype(answers.dtype)
    cross = np.matmul(apart, task.rows[:, :n]).astype(np.float64) / n
    flat = task.layer.grouped().reshape(group, t, d)
    return [x - w @ c for x, w, c in zip(cross, flat, covariance, strict=True)]


def _dense(task: Task, lacks: list[Array], pulled: list[Array]) -> Layer:
    """Return the dense kernel, changed for what it ``lacks``."""
    change = [cho_solve((lower, True), x.T, check_finite=False).T for lower, x in zip(pulled, lacks, strict=True)]
    changed = task.layer.grouped().reshape(len(change), *change[0].shape) + np.stack(change)
    return Layer(changed.reshape(task.layer.weight.shape), task.layer.geometry)


def _unfitted(task: Task, choice: Choice | None, start: Chain) -> Chain:
    """Return the chain that stands for the layer's own kernel, whatever its inputs have become."""
    return _levelled(task, _chain(task, task.layer, choice, start), task.wanted)


def _chain(task: Task, layer: Layer, choice: Choice | None, before: Chain | None) -> Chain:
    """Return the chain for a dense kernel."""
    if choice is None:
        return Chain(((Stage("refit", layer.weight, layer.geometry),),))
    scheme, observed = by_name(choice.scheme), task.view.of(layer)
    if before is None:
        return task.view.back(fitted_solver(scheme, observed).chain(choice.ranks))
    return task.view.back(refined(scheme, observed, task.view.there(before), choice.ranks))


def _levelled(task: Task, chain: Chain, wanted: Array) -> Chain:
    """Return the chain with the bias that makes its mean answer the one wanted, where it can have one."""
    if not task.biased:
        return chain
    return levelled(chain, task.layer.geometry, task.moments[1], _level(task, wanted))


def _level(task: Task, wanted: Array) -> Array:
    """Return the mean answer wanted, (T,); zero where there can be no bias."""
    if not task.biased:
        return np.zeros(wanted.shape[1])
    level: Array = wanted[: task.fitted_rows].mean(axis=0, dtype=np.float64)
    return level

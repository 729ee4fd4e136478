"""The CP fit of one group's kernel: how much work goes where, and an estimate of what it will reach."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.schemes.cp_als import als
from onnxlr.schemes.cp_epc import DEGENERATE, correct, degeneracy
from onnxlr.schemes.cp_nls import NlsOptions, nls
from onnxlr.schemes.cp_start import (
    Compressed,
    SliceSpectrum,
    compress,
    exact,
    exact_rank,
    random_start,
    slice_spectrum,
    slice_start,
)
from onnxlr.schemes.cp_tensor import Slices, balance, pick, relative, residual, stack

if TYPE_CHECKING:
    from onnxlr.schemes.base import Array
    from onnxlr.schemes.cp_tensor import Factors

SEED = 20_151
"""Every random start derives from it."""

SAMPLE = 64
"""Channels per mode of the sub-kernel a large kernel's error is estimated on."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How far to go: ``starts`` of ``sweeps``, the best polished by ``steps`` of ``iterations`` conjugate gradients.

    Of several starts, ``going`` go on after a few sweeps, after all of them and after a third of the steps; these take
    all steps before the last choice. The polish is done twice, the second time with half the steps; ``cycles`` bound
    the correction after each.
    """

    starts: int
    going: tuple[int, int, int]
    sweeps: int
    steps: int
    iterations: int
    cycles: int


SINGLE = 1e-3
"""Relative error below which float32 no longer tells one fit from a better one."""

TOLERANCE = 1e-5
"""Relative gain in error below which sweeps and steps stop."""

SLACKS = (5e-3, 3e-4)
"""Shares by which correcting a degenerate fit may raise its error: before the last polish, and after it."""

BRIEF = 4
"""Most cycles of a draft's correction: the fit in the other metric takes most of it back."""

OVERTAKEN = 25
"""Sweeps after which a large fit from a random start is ahead of one from the slice-wise start."""

FIT = 6e10
"""Multiply-adds a fit may take: seconds on two cores."""

DRAFT = 5e9
"""Multiply-adds a fit may take that goes on from there in another metric."""

STARTS, GOING = 48, (16, 8, 3)
"""Most starts of a fit, and how many go on: after few sweeps, after all of them, and after a third of the steps.

Local minima of small kernels differ by percents.
"""

DRAFTS, DRAFTS_GOING = 12, (4, 2, 2)
"""The same of a draft."""

SCREEN = 8
"""Sweeps after which starts are first compared."""

ESTIMATE = 5e8
"""Multiply-adds an estimate may take."""

ESTIMATE_SWEEPS, ESTIMATE_STEPS = 20, 12
"""Sweeps and steps an estimate may take, where the arithmetic is so little that calls cost more."""


class Kernel:
    """One group's kernel (T, S, k_1, ..., k_n), decomposed once for all ranks."""

    def __init__(self, weight: Array) -> None:
        self.tensor = Slices.of(weight)

    @cached_property
    def compressed(self) -> Compressed:
        """The kernel without the channel directions it does not use."""
        return compress(self.tensor)

    @cached_property
    def spectrum(self) -> SliceSpectrum:
        """The closed-form bound of the compressed kernel, and where fits start."""
        return slice_spectrum(self.compressed.core)

    @cached_property
    def sample(self) -> Kernel:
        """The kernel on a seeded choice of its channels, small enough to fit quickly; itself when it is small."""
        t, s = self.tensor.data.shape[1:]
        if max(t, s) <= SAMPLE:
            return self
        random = np.random.default_rng(SEED)
        rows = np.sort(random.permutation(t)[:SAMPLE])
        columns = np.sort(random.permutation(s)[:SAMPLE])
        part = self.tensor.data[:, rows][:, :, columns].transpose(1, 2, 0)
        return Kernel(np.ascontiguousarray(part).reshape(len(rows), len(columns), *self.tensor.dims))

    def bound(self, rank: int) -> float:
        """Return the relative error of the slice-wise SVD at ``rank``."""
        return self.spectrum.bound(rank, self.tensor.energy)

    def estimate(self, rank: int) -> float:
        """Return about the relative error ``fit`` reaches, cheaply.

        How far a fit improves on the closed-form bound depends on little but that bound: a large kernel takes the
        improvement seen on its sample, at the rank where the sample's bound is the same.
        """
        if self.tensor.energy <= 0.0 or rank >= exact_rank(self.tensor.shape):
            return 0.0
        bound = self.bound(rank)
        sample = self.sample
        if sample is self:
            return min(bound, self.quick_error(rank))
        if sample.tensor.energy <= 0.0 or bound <= 0.0:
            return bound
        rank_there = sample.spectrum.rank_at(bound, sample.tensor.energy)
        bound_there = sample.bound(rank_there)
        return bound * min(1.0, sample.quick_error(rank_there) / bound_there) if bound_there > 0.0 else bound

    def fit(self, rank: int) -> Factors:
        """Return balanced float64 factors of ``rank`` terms."""
        return self.fits(rank, FIT, 1)[0]

    def fits(self, rank: int, budget: float, most: int) -> list[Factors]:
        """Return the best ``most`` fits of ``rank`` terms, as ``fit`` does, after about ``budget`` multiply-adds.

        Fewer, but one, where the kernel is too large for as many starts.
        """
        if self.tensor.energy <= 0.0:
            return [tuple(np.zeros((size, rank)) for size in self.tensor.shape)]
        if rank >= exact_rank(self.tensor.shape):
            return [balance(exact(self.tensor))]
        return [balance(self.compressed.expand(fit)) for fit in self._best(rank, budget, most)]

    def quick_error(self, rank: int) -> float:
        """Return the relative error after some sweeps and a few steps: a little more than a fit will reach."""
        core = self.compressed.core
        effort = affordable(core.shape, rank, ESTIMATE)
        single = core.astype(np.float32)
        start = stack([slice_start(self.spectrum, core, rank, SEED)])
        rough, _ = als(single, start, min(effort.sweeps, ESTIMATE_SWEEPS), TOLERANCE)
        factors, _ = nls(single, rough, NlsOptions(min(effort.steps, ESTIMATE_STEPS), effort.iterations, TOLERANCE))
        return relative(residual(core, pick(factors, 0)), core.energy)

    def _best(self, rank: int, budget: float, most: int) -> list[Factors]:
        """Return the polished fits of the core from the most promising of the slice-wise start and random ones."""
        core = self.compressed.core
        effort = affordable(core.shape, rank, budget)
        starts = [random_start(core.shape, rank, SEED + i) for i in range(effort.starts)]
        if effort.starts > 1 or effort.sweeps < OVERTAKEN:
            starts[0] = slice_start(self.spectrum, core, rank, SEED)
        return _polished(core, *_leaders(core, stack(starts), effort, most), effort)


def _leaders(core: Slices, starts: Factors, effort: Effort, most: int) -> tuple[Factors, Array]:
    """Return the float32 fits that are ahead in the end, and their errors: fewer and fewer of several go on."""
    single = core.astype(np.float32)
    fits = starts
    rough, swept, last = effort.going
    for sweeps, going in ((SCREEN, rough), (effort.sweeps - SCREEN, swept)):
        fits, errors = _ahead(*als(single, fits, sweeps, TOLERANCE), going)
    for steps, going in ((effort.steps // 3, last), (effort.steps, most)) if len(errors) > 1 else ():
        fits, errors = _ahead(*nls(single, fits, NlsOptions(steps, effort.iterations, TOLERANCE)), going)
    return fits, errors


def _ahead(fits: Factors, errors: Array, most: int) -> tuple[Factors, Array]:
    """Return the fits of least error, the best first, and their errors."""
    chosen = np.argsort(errors, kind="stable")[:most]
    return tuple(factor[chosen] for factor in fits), errors[chosen]


def _polished(core: Slices, fits: Factors, errors: Array, effort: Effort) -> list[Factors]:
    """Return float64 fits, the best first: polish, correction when degenerate, polish, correction."""
    single = core.astype(np.float32)
    for steps, slack in zip((effort.steps, effort.steps // 2), SLACKS, strict=True):
        working = single if float(errors.min()) > SINGLE else core
        polished, errors = _ahead(*nls(working, fits, NlsOptions(steps, effort.iterations, TOLERANCE)), len(errors))
        several = tuple(factor.astype(np.float64) for factor in polished)
        fits = stack([_corrected(core, pick(several, i), slack, effort.cycles) for i in range(len(errors))])
    return [pick(fits, i) for i in range(len(errors))]


def _corrected(core: Slices, factors: Factors, slack: float, cycles: int) -> Factors:
    """Correct a degenerate fit, letting its error grow by the share ``slack``."""
    if degeneracy(core, factors) <= DEGENERATE:
        return factors
    return correct(core, factors, (1.0 + slack) * sqrt(residual(core, factors)), cycles)


def affordable(shape: tuple[int, ...], rank: int, budget: float) -> Effort:
    """Return what fits into about ``budget`` multiply-adds, with a least effort for the largest kernels.

    A sweep and a Gauss-Newton step pass over the kernel once each; all else is products of R x R with the factors.
    """
    small = rank**2 * sum(shape)
    passes = 2 * prod(shape) * rank
    sweep = passes + 3 * small
    iterations = 8 if 20 * small > passes else 15
    step = passes + 5 * iterations * small
    sweeps = int(np.clip(0.4 * budget / sweep, 10, 40))
    steps = int(np.clip(0.4 * budget / step, 2, 24))
    most, going = (STARTS, GOING) if budget >= FIT else (DRAFTS, DRAFTS_GOING)
    starts = int(np.clip(0.1 * budget / (sweeps * sweep + steps * step / 3), 1, most))
    going = (*going[:2], min(going[2], 1 + starts // 4))
    cycles = 12 if rank <= 200 else 5 if rank <= 400 else 2
    return Effort(starts, going, sweeps, steps, iterations, cycles if budget >= FIT else min(cycles, BRIEF))

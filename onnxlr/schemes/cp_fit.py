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
from onnxlr.schemes.cp_tensor import Slices, balance, relative, residual

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

    ``cycles`` bound a correction. The polish is done twice, the second time with half the steps; with several starts
    each gets a third of the steps before they are compared, and those ahead all of the steps before the last choice.
    """

    starts: int
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

OVERTAKEN = 25
"""Sweeps after which a large fit from a random start is ahead of one from the slice-wise start."""

FIT = 6e10
"""Multiply-adds a fit may take: seconds on two cores."""

DRAFT = 5e9
"""Multiply-adds a fit may take that goes on from there in another metric."""

STARTS, FINALISTS = 48, 3
"""Most starts of a fit, and how many of them are polished: local minima of small kernels differ by percents."""

DRAFTS = 12
"""Most starts of a draft."""

SCREEN, KEPT = 12, 2
"""Sweeps after which the starts of a draft are compared, and how many of them go on."""

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

    def fit(self, rank: int, budget: float = FIT) -> Factors:
        """Return balanced float64 factors of ``rank`` terms, after about ``budget`` multiply-adds."""
        if self.tensor.energy <= 0.0:
            return tuple(np.zeros((size, rank)) for size in self.tensor.shape)
        if rank >= exact_rank(self.tensor.shape):
            return balance(exact(self.tensor))
        return balance(self.compressed.expand(self._best(rank, budget)))

    def quick_error(self, rank: int) -> float:
        """Return the relative error after some sweeps and a few steps: a little more than a fit will reach."""
        core = self.compressed.core
        effort = affordable(core.shape, rank, ESTIMATE)
        single = core.astype(np.float32)
        start = slice_start(self.spectrum, core, rank, SEED)
        rough, _ = als(single, start, min(effort.sweeps, ESTIMATE_SWEEPS), TOLERANCE)
        factors, _ = nls(single, rough, NlsOptions(min(effort.steps, ESTIMATE_STEPS), effort.iterations, TOLERANCE))
        return relative(residual(core, factors), core.energy)

    def _best(self, rank: int, budget: float) -> Factors:
        """Return the polished fit of the core from the most promising of the slice-wise start and random ones."""
        core = self.compressed.core
        effort = affordable(core.shape, rank, budget)
        starts = [random_start(core.shape, rank, SEED + i) for i in range(effort.starts)]
        if effort.starts > 1 or effort.sweeps < OVERTAKEN:
            starts[0] = slice_start(self.spectrum, core, rank, SEED)
        if budget < FIT:
            starts = _screened(core, starts)
        fits = sorted((_rough(core, start, effort) for start in starts), key=lambda fit: fit[1])
        return _polished(core, _final(core, fits[:FINALISTS], effort), effort)


def _screened(core: Slices, starts: list[Factors]) -> list[Factors]:
    """Return the starts that are ahead after a few sweeps."""
    if len(starts) <= KEPT:
        return starts
    single = core.astype(np.float32)
    swept = sorted((als(single, start, SCREEN, TOLERANCE) for start in starts), key=lambda fit: fit[1])
    return [factors for factors, _ in swept[:KEPT]]


def _rough(core: Slices, start: Factors, effort: Effort) -> tuple[Factors, float]:
    """Return the float32 fit, and its error, by which starts are compared: sweeps and a few steps."""
    single = core.astype(np.float32)
    swept = als(single, start, effort.sweeps, TOLERANCE)
    if effort.starts == 1:
        return swept
    return nls(single, swept[0], NlsOptions(effort.steps // 3, effort.iterations, TOLERANCE))


def _final(core: Slices, fits: list[tuple[Factors, float]], effort: Effort) -> tuple[Factors, float]:
    """Return the best of the fits that are ahead, each polished when there are several."""
    if len(fits) == 1:
        return fits[0]
    single = core.astype(np.float32)
    options = NlsOptions(effort.steps, effort.iterations, TOLERANCE)
    return min((nls(single, factors, options) for factors, _ in fits), key=lambda fit: fit[1])


def _polished(core: Slices, rough: tuple[Factors, float], effort: Effort) -> Factors:
    """Return a float64 fit: polish, correction when degenerate, polish, correction."""
    factors, error = rough
    single = core.astype(np.float32)
    for steps, slack in zip((effort.steps, effort.steps // 2), SLACKS, strict=True):
        working = single if error > SINGLE else core
        factors, error = nls(working, factors, NlsOptions(steps, effort.iterations, TOLERANCE))
        factors = _corrected(core, tuple(factor.astype(np.float64) for factor in factors), slack, effort.cycles)
    return factors


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
    starts = int(np.clip(0.1 * budget / (sweeps * sweep + steps * step / 3), 1, STARTS if budget >= FIT else DRAFTS))
    return Effort(starts, sweeps, steps, iterations, cycles=12 if rank <= 200 else 5 if rank <= 400 else 2)

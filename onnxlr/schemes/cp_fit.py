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

    ``cycles`` bound a correction. The polish is done twice, the second time with half the steps.
    """

    starts: int
    sweeps: int
    steps: int
    iterations: int
    cycles: int


SINGLE = 1e-3
"""Relative error below which float32 no longer tells one fit from a better one."""

SLACK = 5e-3
"""Share by which correcting a degenerate fit may raise its error."""

QUICK = Effort(starts=1, sweeps=12, steps=6, iterations=8, cycles=0)


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
        if self.tensor.energy <= 0.0:
            return tuple(np.zeros((size, rank)) for size in self.tensor.shape)
        if rank >= exact_rank(self.tensor.shape):
            return balance(exact(self.tensor))
        return balance(self.compressed.expand(self._polished(rank)))

    def quick_error(self, rank: int) -> float:
        """Return the relative error of a quick fit."""
        core = self.compressed.core
        start = slice_start(self.spectrum, core, rank, SEED)
        rough, _ = als(core.astype(np.float32), start, QUICK.sweeps, 1e-4)
        factors, _ = nls(core.astype(np.float32), rough, NlsOptions(QUICK.steps, QUICK.iterations, 1e-4))
        return relative(residual(core, factors), core.energy)

    def _polished(self, rank: int) -> Factors:
        """Return float64 factors of the core: starts, polish, correction when degenerate, polish, correction."""
        core = self.compressed.core
        effort = affordable(core.shape, rank)
        single = core.astype(np.float32)
        starts = [slice_start(self.spectrum, core, rank, SEED)]
        starts += [random_start(core.shape, rank, SEED + i) for i in range(1, effort.starts)]
        rough, error = min((als(single, start, effort.sweeps, 1e-5) for start in starts), key=lambda found: found[1])
        working = single if error > SINGLE else core
        factors = rough
        for steps in (effort.steps, effort.steps // 2):
            factors, _ = nls(working, factors, NlsOptions(steps, effort.iterations, 1e-4))
            factors = _corrected(core, tuple(factor.astype(np.float64) for factor in factors), effort.cycles)
        return factors


def _corrected(core: Slices, factors: Factors, cycles: int) -> Factors:
    """Correct a degenerate fit, letting its error grow by ``SLACK``."""
    if degeneracy(core, factors) <= DEGENERATE:
        return factors
    return correct(core, factors, (1.0 + SLACK) * sqrt(residual(core, factors)), cycles)


def affordable(shape: tuple[int, ...], rank: int, budget: float = 4e10) -> Effort:
    """Return what fits into about ``budget`` multiply-adds, with a least effort for the largest kernels."""
    small = rank**2 * sum(shape)
    products = 2 * prod(shape) * rank
    sweep = products + 3 * small
    iterations = 8 if 20 * small > products else 15
    step = products + 5 * iterations * small
    starts = int(np.clip(0.1 * budget / (30 * sweep), 1, 4))
    sweeps = int(np.clip(0.4 * budget / sweep, 10, 30))
    steps = int(np.clip(0.4 * budget / step, 2, 24))
    return Effort(starts, sweeps, steps, iterations, cycles=3 if rank > 1000 else 12)

"""``mixed`` fitted to data: branch after branch, the exact reduced-rank regression of what the others leave."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_solve

from onnxlr.schemes.base import leading
from onnxlr.schemes.calibrated import Calibrated
from onnxlr.schemes.metric import Covariance, factor
from onnxlr.schemes.mixed import branches, window
from onnxlr.schemes.observed import Observed, fill, regress_last

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onnxlr.schemes.base import Array, Ranks
    from onnxlr.schemes.mixed import Mixed
    from onnxlr_passes.chain import Chain

SWEEPS = 4
"""Times every branch is fitted."""


@dataclass(frozen=True, eq=False)
class FittedMixed:
    """Branches see parts of a patch, x_b = P_b x. Given the others, y - y_others is regressed on x_b at rank m_b.

    Every update is optimal for its branch and its part of the join together, so the error never rises. A layer whose
    covariance does not fit in memory keeps the branches of its weights and has the join regressed.
    """

    scheme: Mixed
    observed: Observed

    @cached_property
    def _windows(self) -> tuple[NDArray[np.int64], ...]:
        """Return, per branch, the columns of the patch it sees, in the order of its own kernel."""
        layer = self.observed.layer
        index = np.arange(layer.shape.S * layer.shape.taps).reshape(1, layer.shape.S, *layer.geometry.kernel)
        return tuple(index[window(layer.geometry, branch)].reshape(-1) for branch in branches(layer.geometry))

    @cached_property
    def _factors(self) -> tuple[Array, ...]:
        """Return, per branch, the Cholesky factor of the covariance of what it sees."""
        (covariance,) = self._covariance
        return tuple(factor(covariance[np.ix_(columns, columns)]) for columns in self._windows)

    @property
    def _covariance(self) -> Array:
        metric = self.observed.metric
        if not isinstance(metric, Covariance):
            raise TypeError("the covariance was not formed")
        return metric.covariance

    def expected(self, ranks: Ranks) -> float:
        """Return the relative error to expect of the weights' own fit."""
        return self.scheme.solver(self.observed.layer).error(ranks)

    def error(self, ranks: Ranks) -> float:
        """Return the relative error to expect on the data."""
        return self._calibrated.error(self.expected(ranks))

    @cached_property
    def _calibrated(self) -> Calibrated:
        """What the weights tell of the outputs differs from layer to layer, so each is looked at."""
        part = FittedMixed(self.scheme, self.observed.sample())
        return Calibrated.on(self.scheme, part.observed, part.expected, part.chain)

    def chain(self, ranks: Ranks) -> Chain:
        """Return the fitted chain at (m_h, m_v, m_f)."""
        blind = regress_last(self.scheme.solver(self.observed.layer).chain(ranks), self.observed)
        return self.refined(blind)

    def refined(self, chain: Chain) -> Chain:
        """Return a chain with its branches and join fitted to the outputs, which loses no more than ``chain``."""
        if not isinstance(self.observed.metric, Covariance):
            return regress_last(chain, self.observed)
        names = [stage.suffix for stage in chain.steps[0]]
        order = [("h", "v", "full").index(name) for name in names]
        (join,) = chain.steps[-1]
        splits = np.cumsum([stage.weight.shape[0] for stage in chain.steps[0]])[:-1]
        joins: list[Array] = np.split(join.weight.reshape(join.weight.shape[0], -1), splits, axis=1)
        filters: list[Array] = [stage.weight.reshape(stage.weight.shape[0], -1) for stage in chain.steps[0]]
        rest = self.observed.layer.grouped()[0].reshape(join.weight.shape[0], -1).copy()
        for mix, filter_, branch in zip(joins, filters, order, strict=True):
            rest[:, self._windows[branch]] -= mix @ filter_
        for _ in range(SWEEPS):
            for i, branch in enumerate(order):
                columns = self._windows[branch]
                rest[:, columns] += joins[i] @ filters[i]
                joins[i], filters[i] = self._regress(rest, branch, joins[i].shape[1])
                rest[:, columns] -= joins[i] @ filters[i]
        weights = dict(zip(names, filters, strict=True)) | {join.suffix: np.concatenate(joins, axis=1)}
        made = regress_last(fill(chain, weights), self.observed)
        return min((chain, made), key=self.observed.error)

    def _regress(self, rest: Array, branch: int, rank: int) -> tuple[Array, Array]:
        """Return (join, filters) of one branch, at best what it can take of ``rest`` (T, D)."""
        columns = self._windows[branch]
        cross = rest @ self._covariance[0][:, columns]
        dense = cho_solve((self._factors[branch], True), cross.T, check_finite=False).T
        explained = dense @ cross.T
        mix = leading((explained + explained.T) / 2)[0][:, :rank]
        filters = mix.T @ dense
        scale = np.sqrt(np.linalg.norm(filters, axis=1))
        scale[scale == 0.0] = 1.0
        return mix * scale, filters / scale[:, None]

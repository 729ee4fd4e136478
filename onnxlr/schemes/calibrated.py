"""Estimates of a fit's error, corrected by what such estimates are worth on a small layer of the same kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnxlr.schemes.base import Ranks, Scheme
    from onnxlr.schemes.observed import Observed
    from onnxlr_passes.chain import Chain

BLOCK = 8
"""Ranks looked at are multiples of it."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Pairs of an expected error and the share of it that was reached, in ascending order of the former."""

    expected: tuple[float, ...]
    shares: tuple[float, ...]

    @classmethod
    def on(
        cls,
        scheme: Scheme,
        part: Observed,
        expect: Callable[[Ranks], float],
        fit: Callable[[Ranks], Chain],
    ) -> Calibrated:
        """Compare what is expected with what a fit reaches, rank by rank; where all is lost nothing is gained."""
        pairs = [(1.0, 1.0)]
        for ranks in scheme.candidates(part.layer.shape, BLOCK):
            expected = expect(ranks)
            if expected > 0.0:
                pairs.append((expected, min(part.error(fit(ranks)) / expected, 1.0)))
        pairs.sort()
        return cls(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))

    def error(self, expected: float) -> float:
        """Return the error to count with where ``expected`` is expected."""
        return expected * float(np.interp(expected, self.expected, self.shares)) if self.expected else expected


UNCORRECTED = Calibrated((), ())
"""Expectations as they are."""

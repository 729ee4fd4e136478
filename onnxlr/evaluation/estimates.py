"""A metric's value with its standard error, and the difference of two on the same samples."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and one standard error of it, both in the metric's own unit; the error is NaN of fewer than 2 samples."""

    value: float
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What a model scored on some data.

    ``parts`` (k,) are independent numbers whose mean is the value, or nearly: the score of each sample, or for a
    metric of the whole set the pseudo-values of a jackknife over groups of samples. ``agreement`` is the share of
    samples whose largest class is the original's and ``kl`` the mean Kullback-Leibler divergence in nats from the
    original's classes to the new model's; None for outputs that are not scores of classes. ``shift`` tells how far
    the outputs are from the original's, for comparing models: ``kl`` where there is one, else the squared relative
    L2 difference.
    """

    value: float
    parts: Array
    samples: int
    agreement: float | None
    kl: float | None
    shift: float

    @property
    def estimate(self) -> Estimate:
        """The value with its standard error."""
        return Estimate(self.value, standard_error(self.parts))


def drop(reference: Scored, new: Scored) -> Estimate:
    """Return how much less ``new`` scored; both on the same samples, whose scores are paired.

    The error of a difference of paired scores is smaller than what the errors of the two would give: most samples
    are right, or wrong, for both.
    """
    return Estimate(reference.value - new.value, standard_error(reference.parts - new.parts))


def standard_error(parts: Array) -> float:
    """Return the standard error of the mean of ``parts`` (k,); NaN for fewer than 2."""
    if len(parts) < 2:
        return float("nan")
    return float(parts.std(ddof=1) / sqrt(len(parts)))


def within(difference: Estimate, limit: float) -> bool:
    """Whether a drop is at most ``limit``; one that is not a number is not."""
    return isfinite(difference.value) and difference.value <= limit + 1e-12

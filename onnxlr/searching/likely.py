"""What trials probably lose: a loss measured on few samples is drawn towards what such outputs lose elsewhere.

The fastest of many models whose measured loss is within a limit tends to be one that was lucky with its samples. How
far its outputs are from the original's is known much better than what they lose, and tells what to expect: losses
follow a power of the shift over the trials of a search. The estimate is the mean of both, weighted by what is known of
their spreads (empirical Bayes; Efron and Morris 1973).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxlr.report.searched import Trial

    Array = np.ndarray[Any, np.dtype[np.float64]]

FEWEST = 4
"""Fewer trials show no trend."""
LEAST_SPREAD, FIRST_SPREAD, MOST_SPREAD = 0.05, 0.3, 1.0
"""How far losses spread about the trend, relative to it: at least, at first, at most."""
_POWERS = np.arange(0.25, 2.01, 0.05)
_ROUNDS = 4
_TINY = 1e-12


def likely(trials: Sequence[Trial]) -> list[float]:
    """Return the probable loss of every trial; the measured one where it has no error, or there are few trials."""
    known = [index for index, trial in enumerate(trials) if _known(trial)]
    found = [trial.loss for trial in trials]
    if len(known) < FEWEST:
        return found
    loss, error, shift = (
        np.array([getattr(trials[index], name) for index in known]) for name in ("loss", "loss_error", "shift")
    )
    expected, spread = _trend(loss, error, shift)
    own = np.square(spread * expected)
    trust = own / np.maximum(own + np.square(error), _TINY)
    trust[error <= 0.0] = 1.0
    for index, value in zip(known, (expected + trust * (loss - expected)).tolist(), strict=True):
        found[index] = value
    return found


def _known(trial: Trial) -> bool:
    return bool(np.isfinite([trial.loss, trial.loss_error, trial.shift]).all()) and trial.shift > 0.0


def _trend(loss: Array, error: Array, shift: Array) -> tuple[Array, float]:
    """Fit scale x shift^power to the losses; return its values and how far losses spread about it, relative to it."""
    weight = 1.0 / (np.square(error) + np.square(FIRST_SPREAD * loss) + _TINY)
    expected, spread = np.zeros_like(loss), FIRST_SPREAD
    for _ in range(_ROUNDS):
        best = np.inf
        for power in _POWERS:
            base = shift**power
            fitted = max(float((weight * base * loss).sum() / (weight * base * base).sum()), 0.0) * base
            lost = float((weight * np.square(loss - fitted)).sum())
            if lost < best:
                best, expected = lost, fitted
        unexplained = float((np.square(loss - expected) - np.square(error)).sum())
        relative = unexplained / max(float(np.square(expected).sum()), _TINY)
        spread = float(np.sqrt(np.clip(relative, LEAST_SPREAD**2, MOST_SPREAD**2)))
        weight = 1.0 / (np.square(error) + np.square(spread * expected) + _TINY)
    return expected, spread

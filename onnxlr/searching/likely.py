"""What trials probably lose: a loss measured on few samples is drawn towards what such outputs lose elsewhere.

The fastest of many models whose measured loss is within a limit tends to be one that was lucky with its samples. How
far its outputs are from the original's is known much better than what they lose, and tells what to expect: losses
follow a power of the shift over the trials of a search. The estimate is the mean of both, weighted by what is known of
their spreads (empirical Bayes; Efron and Morris 1973).

All trials are judged on the same samples: where these are few, the trend itself may be lucky, and more trials do not
help. An accuracy has something else to go by. Of the classes that changed, a share was right before, and that share is
much the same from network to network.
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
HARM, HARM_SPREAD = 0.35, 0.25
"""What an accuracy loses for every class that changed, and how far that spreads over networks (docs/adr/0027)."""
_POWERS = np.arange(0.25, 2.01, 0.05)
_ROUNDS = 4
_TINY = 1e-12


def likely(trials: Sequence[Trial], *, accuracy: bool) -> list[float]:
    """Return the probable loss of every trial; the measured one where that has no error.

    ``accuracy`` says that the loss is one of the share of samples whose first class is right. Of any other, a few
    trials are taken as they were measured.
    """
    known = [index for index, trial in enumerate(trials) if _known(trial)]
    found = [trial.loss for trial in trials]
    loss, error, shift = (
        np.array([getattr(trials[index], name) for index in known]) for name in ("loss", "loss_error", "shift")
    )
    expected, spread = (loss, FIRST_SPREAD) if len(known) < FEWEST else _trend(loss, error, shift)
    agreement = [trials[index].agreement for index in known]
    if accuracy:
        changed = np.array([0.0 if same is None else 1.0 - same for same in agreement])
        expected = np.maximum(expected + _sober(loss, error, changed), 0.0)
    elif len(known) < FEWEST:
        return found
    own = np.square(spread * expected)
    trust = own / np.maximum(own + np.square(error), _TINY)
    trust[error <= 0.0] = 1.0
    for index, value in zip(known, (expected + trust * (loss - expected)).tolist(), strict=True):
        found[index] = value
    return found


def _known(trial: Trial) -> bool:
    return bool(np.isfinite([trial.loss, trial.loss_error, trial.shift]).all()) and trial.shift > 0.0


def _sober(loss: Array, error: Array, changed: Array) -> Array:
    """Return what to add to all that these samples make expect, by what so many ``changed`` classes cost elsewhere.

    What a changed class costs on these samples is as sure as a single trial that had all trials' changes: they vary
    together. A trial that lost nothing on any sample has no error, and says nothing of it.
    """
    weight = np.divide(changed, np.square(error), out=np.zeros_like(changed), where=error > 0.0)
    if not weight.any():
        return np.zeros_like(loss)
    total = float((weight * changed).sum())
    seen, doubt = float((weight * loss).sum()) / total, float((weight * error).sum()) / total
    trust = HARM_SPREAD**2 / (HARM_SPREAD**2 + doubt**2)
    return np.asarray((1.0 - trust) * (HARM - seen) * changed)


def _trend(loss: Array, error: Array, shift: Array) -> tuple[Array, float]:
    """Fit scale x shift^power to the losses; return its values and how far losses spread about it, relative to it.

    A trial that lost nothing on any sample has an error of 0 as counted; it is as sure as the surest of the others.
    """
    if (error > 0.0).any():
        error = np.maximum(error, error[error > 0.0].min())
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

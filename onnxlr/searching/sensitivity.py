"""How much each layer's error matters to the network, re-fitted from the whole models that were tried.

The shift of the outputs is modelled as a sum over layers of weight x rule(error). A handful of trials cannot tell the
weights of many layers, so the fit is a ridge around the present weights and moves each by a bounded factor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import lsq_linear

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnxlr.planning.rules import Rule
    from onnxlr.report.searched import Trial

RIDGE = 0.3
MOST = 2.0
"""A weight moves by this factor at most in one fit."""


def refitted(
    trials: Sequence[Trial], rule: Rule, weights: Mapping[str, float], sites: Sequence[str]
) -> dict[str, float]:
    """Return new weights by site, of mean 1; ``trials`` tell each layer's error and the shift of the outputs.

    Minimises sum over trials of (modelled / seen - 1)^2 + RIDGE x sum over layers of (change - 1)^2, after the scale of
    the whole has been fitted, which no plan depends on. Trials of exact tiles alone have no errors and tell nothing.
    """
    seen = [trial for trial in trials if trial.shift > 0.0 and np.isfinite(trial.shift)]
    if not seen or not sites:
        return dict(weights)
    place = {site: index for index, site in enumerate(sites)}
    modelled = np.zeros((len(seen), len(sites)))
    for row, trial in zip(modelled, seen, strict=True):
        for site, error in trial.errors:
            if site in place:
                row[place[site]] = weights.get(site, 1.0) * rule.of(error)
    modelled /= np.array([trial.shift for trial in seen])[:, None]
    modelled = modelled[modelled.any(axis=1)]
    if not len(modelled):
        return dict(weights)
    modelled /= np.exp(np.log(modelled.sum(axis=1)).mean())
    design = np.concatenate([modelled, np.sqrt(RIDGE) * np.eye(len(sites))])
    wanted = np.concatenate([np.ones(len(modelled)), np.full(len(sites), np.sqrt(RIDGE))])
    change = lsq_linear(design, wanted, bounds=(1.0 / MOST, MOST)).x
    new = np.array([weights.get(site, 1.0) for site in sites]) * change
    return dict(zip(sites, (new / new.mean()).tolist(), strict=True))

"""Optimizers, and the learning rate of every step."""

from __future__ import annotations

from math import cos, pi
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from onnxlr.training.options import TrainOptions

_WARM_UP = 0.1
_LEAST = 1e-3


def share_of_peak(step: int, steps: int) -> float:
    """Return the learning rate of a step (counted from 0) as a share of its peak: linear warm-up, cosine to 0."""
    warm = max(round(_WARM_UP * steps), 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + cos(pi * (step - warm) / max(steps - warm, 1)))


def make_optimizer(rates: Mapping[nn.Parameter, float], options: TrainOptions) -> torch.optim.Optimizer:
    """Return an optimizer with one group per parameter, whose peak learning rate is the group's ``peak``.

    Adam moves every number by about the learning rate, whatever its gradient. So that a rate suits a first layer fed
    with 0..255 as well as one fed with -1..1, it is relative: the peak is the rate times the root mean square of the
    weight.
    """
    if options.optimizer == "sgd":
        plain = [{"params": [one], "peak": rate, "lr": rate} for one, rate in rates.items()]
        return torch.optim.SGD(plain, momentum=0.9, nesterov=True, weight_decay=options.weight_decay)
    peaks = {one: rate * _scale(one) for one, rate in rates.items()}
    groups = [{"params": [one], "peak": peak, "lr": peak} for one, peak in peaks.items()]
    return torch.optim.AdamW(groups, weight_decay=options.weight_decay)


def _scale(weight: nn.Parameter) -> float:
    """Return the root mean square of a weight; a vector of zeros, as biases often are, has a small one anyway."""
    found = float(weight.detach().double().square().mean().sqrt())
    return max(found, _LEAST) if weight.ndim == 1 else found or _LEAST


def set_rate(optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
    """Set the learning rates of a step."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share_of_peak(step, steps)

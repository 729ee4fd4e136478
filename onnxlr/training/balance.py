"""CP chains before training: every factor of a rank-1 term gets the same norm, which changes nothing they compute."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from onnxlr.training.blocks import Block
    from onnxlr.training.executor import TorchGraph


def balance(block: Block, graph: TorchGraph) -> None:
    """Scale the factors of a CP chain in place; terms of zeros are left alone.

    The gradient of a factor is proportional to the product of the others, so that unequal norms make some factors
    learn much faster than others.
    """
    group = block.nodes[-1].integer("group", 1)
    weights = [graph.weight(name) for name in block.factors]
    with torch.no_grad():
        norms = [_by_term(weight, group, last=i == len(weights) - 1).norm(dim=1) for i, weight in enumerate(weights)]
        product = prod(norms[1:], start=norms[0])
        alive = product > 0
        wanted = product.pow(1.0 / len(norms))
        for i, (weight, norm) in enumerate(zip(weights, norms, strict=True)):
            view = _by_term(weight, group, last=i == len(weights) - 1)
            scale = torch.where(alive, wanted / torch.where(alive, norm, 1.0), 1.0)
            _write(weight, view * scale[:, None], group, last=i == len(weights) - 1)


def _by_term(weight: Tensor, group: int, *, last: bool) -> Tensor:
    """Return a factor as (terms, entries): rows of all convolutions but the last, columns of its groups there."""
    if not last:
        return weight.flatten(1)
    outputs, terms = weight.shape[:2]
    return weight.reshape(group, outputs // group, terms).transpose(1, 2).reshape(group * terms, -1)


def _write(weight: Tensor, terms: Tensor, group: int, *, last: bool) -> None:
    if last:
        outputs, each = weight.shape[:2]
        terms = terms.reshape(group, each, outputs // group).transpose(1, 2)
    weight.copy_(terms.reshape(weight.shape))

"""Tayyab and Mahalanobis (2019): only what mixes the basis filters is learnt.

Four networks in network: the plain one; the plain one's eigenfilters, frozen, with 1x1 learnt further; random
orthogonal filters, frozen, with 1x1 learnt from scratch; and the same with the filters trained as well.
`python samples/low_rank/basis.py --quick` takes minutes, without it a day or more on a few cores.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from onnxlr.training.layers import BasisConv2d, convert
from torch import nn

from experiment import Images, Settings, images, options, record, show, timed
from nin import he, nin

PAPER = (
    "paper: CIFAR-100 within 3 points of the plain network with up to 5x fewer operations, 18x fewer learnable numbers"
)


def rank_of(layer: nn.Conv2d) -> int:
    """Return a quarter of the output channels."""
    return max(layer.out_channels // 4, 8)


def spatial(layer: nn.Module) -> bool:
    """Whether a layer is to be replaced: any convolution but the 1x1."""
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)


def eigenfilters(name: str, layer: nn.Module) -> nn.Module | None:
    """Give a trained layer its own basis, frozen."""
    del name
    return (
        BasisConv2d.from_conv(layer, rank=rank_of(layer)) if isinstance(layer, nn.Conv2d) and spatial(layer) else None
    )


def random_basis(layer: nn.Conv2d, *, frozen: bool) -> nn.Module:
    """Return a layer on a random orthogonal basis."""
    side = layer.kernel_size[0]
    return BasisConv2d(
        layer.in_channels,
        layer.out_channels,
        side,
        padding=side // 2,
        bias=layer.bias is not None,
        rank=rank_of(layer),
        frozen=frozen,
    )


def from_scratch(settings: Settings, *, frozen: bool) -> list[nn.Module]:
    """One network per seed on random bases."""

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        del name
        return random_basis(layer, frozen=frozen) if isinstance(layer, nn.Conv2d) and spatial(layer) else None

    return [convert(one, rule) for one in plain(settings)]


def plain(settings: Settings) -> list[nn.Module]:
    """One network per seed."""
    made = []
    for seed in settings.seeds:
        torch.manual_seed(seed)
        made.append(he(nin(3, settings.width, batchnorm=True)))
    return made


def main() -> None:
    """Train all four, print and write the table."""
    settings, cache, out = options(__doc__)
    data: Images = images(cache, settings.train_count)
    trained = plain(settings)
    rows = [timed("NIN", trained, data, settings)]
    show("CIFAR-10", rows, PAPER)
    gentle = replace(settings, learning_rate=settings.learning_rate / 5, epochs=max(settings.epochs // 2, 1))
    tuned = [convert(deepcopy(one), eigenfilters) for one in trained]
    rows.append(timed("its eigenfilters frozen, 1x1 learnt further", tuned, data, gentle))
    show("CIFAR-10", rows, PAPER)
    for name, frozen in (("random basis frozen, 1x1 from scratch", True), ("random basis trained too", False)):
        rows.append(timed(name, from_scratch(settings, frozen=frozen), data, settings))
        show("CIFAR-10", rows, PAPER)
    record(out, settings, rows, PAPER)


if __name__ == "__main__":
    main()

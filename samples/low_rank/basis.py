"""Tayyab and Mahalanobis (2019): only what mixes the basis filters is learnt.

Five networks in network: the plain one; the plain one's eigenfilters, frozen, with 1x1 learnt further, and learnt
further too; random orthogonal filters, frozen, with 1x1 learnt from scratch, and trained as well, with BatchNorm
between, as the authors do in 2021. All are trained for as many epochs. The plain one is also shown as it was when its
eigenfilters were taken, as a pretrained network would be. Eigenfilters are worth little of a network that is hardly
trained, so that `--quick` uses all images here.
`python samples/low_rank/basis.py --quick` takes 22 minutes of one core, without it a day or more on a few cores.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from onnxlr.training.layers import BasisConv2d, convert
from torch import nn

from experiment import QUICK, Images, Settings, continued, images, options, record, show, timed
from nin import he, nin

PAPER = (
    "paper: CIFAR-100 within 3 points of the plain network with up to 5x fewer operations, 18x fewer learnable numbers"
)
ALL = 60_000

EIGEN = (("its eigenfilters frozen, 1x1 learnt further", True), ("its eigenfilters learnt further too", False))
RANDOM = (("random basis frozen, 1x1 from scratch", True), ("random basis trained too, BatchNorm between", False))


def rank_of(layer: nn.Conv2d) -> int:
    """Return a quarter of the output channels."""
    return max(layer.out_channels // 4, 8)


def spatial(layer: nn.Module) -> bool:
    """Whether a layer is to be replaced: any convolution but the 1x1."""
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)


def eigenfilters(models: list[nn.Module], *, frozen: bool) -> list[nn.Module]:
    """Return copies of trained networks whose spatial layers stand on their own eigenfilters."""

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        del name
        known = isinstance(layer, nn.Conv2d) and spatial(layer)
        return BasisConv2d.from_conv(layer, rank=rank_of(layer), frozen=frozen) if known else None

    return [convert(deepcopy(one), rule) for one in models]


def random_basis(layer: nn.Conv2d, *, frozen: bool) -> nn.Module:
    """Return a layer on a random orthogonal basis; one that is trained has BatchNorm behind it."""
    side = layer.kernel_size[0]
    return BasisConv2d(
        layer.in_channels,
        layer.out_channels,
        side,
        padding=side // 2,
        bias=layer.bias is not None,
        rank=rank_of(layer),
        frozen=frozen,
        batchnorm=not frozen,
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
        made.append(he(nin(settings.channels, settings.width, batchnorm=True)))
    return made


def further(settings: Settings) -> Settings:
    """Return the second part of the schedule, the same for all: half as many epochs at a fifth of the rate."""
    return replace(
        settings,
        learning_rate=settings.learning_rate / 5,
        epochs=max(settings.epochs // 2, 1),
        seeds=tuple(1000 + seed for seed in settings.seeds),
    )


def main() -> None:
    """Train all five, each in both parts of the schedule, print and write the table."""
    settings, cache, out = options(__doc__, replace(QUICK, epochs=4, train_count=ALL))
    data: Images = images(cache, settings)
    second = further(settings)
    trained = plain(settings)
    rows = [timed("NIN, when its eigenfilters were taken", trained, data, settings)]
    # Eigenfilters have had the first part of the schedule as filters of the plain network.
    tuned = [(name, eigenfilters(trained, frozen=frozen)) for name, frozen in EIGEN]
    rows.append(continued(replace(rows[0], network="NIN, learnt further"), trained, data, second))
    show(settings, rows, PAPER)
    for name, models in tuned:
        rows.append(timed(name, models, data, second))
        show(settings, rows, PAPER)
    for name, frozen in RANDOM:
        models = from_scratch(settings, frozen=frozen)
        rows.append(continued(timed(name, models, data, settings), models, data, second))
        show(settings, rows, PAPER)
    record(out, settings, rows, PAPER)


if __name__ == "__main__":
    main()

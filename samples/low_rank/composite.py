"""Ioannou et al. (2016): a network in network with filters of mixed shapes, and what its initialisation is worth.

The composite layers take the place of the spatial convolutions; the 1x1 that follows each joins their filters. Without
BatchNorm, as then, a network is trained with one sigma for all filters of a layer and with one per group.
`python samples/low_rank/composite.py --quick` takes minutes, without it a day or more on a few cores.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from onnxlr.training.layers import CompositeConv2d, convert
from torch import nn

from experiment import FULL, QUICK, Images, Settings, images, options, record, show, timed
from nin import he, nin

PAPER = "paper: NIN on CIFAR-10 91.88 % plain, 91.78 % composite with 54 % of the MACs"
Initialisation = Literal["shared", "per-group"]


def composite(layer: nn.Conv2d, initialisation: Initialisation) -> nn.Module:
    """Return a quarter of full filters, the others half horizontal, half vertical."""
    side, out = layer.kernel_size[0], layer.out_channels
    whole = out // 4
    across = (out - whole) // 2
    branches = ((1, side, across), (side, 1, out - whole - across), (side, side, whole))
    return CompositeConv2d(
        layer.in_channels, out, side, padding=side // 2, branches=branches, join=False, initialisation=initialisation
    )


def models(settings: Settings, initialisation: Initialisation | None) -> list[nn.Module]:
    """One network per seed; None: the plain one."""

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        del name
        spatial = isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
        return composite(layer, initialisation) if spatial and initialisation is not None else None

    made = []
    for seed in settings.seeds:
        torch.manual_seed(seed)
        made.append(convert(he(nin(settings.channels, settings.width, batchnorm=False)), rule))
    return made


def main() -> None:
    """Train the three kinds, print and write the table."""
    settings, cache, out = options(__doc__, replace(QUICK, seeds=FULL.seeds))  # one seed says nothing about a start
    data: Images = images(cache, settings)
    rows = []
    kinds: tuple[tuple[str, Initialisation | None], ...] = (
        ("NIN", None),
        ("NIN, composite, shared sigma", "shared"),
        ("NIN, composite, sigma per group", "per-group"),
    )
    for name, initialisation in kinds:
        rows.append(timed(name, models(settings, initialisation), data, settings))
        show(settings, rows, PAPER)
    record(out, settings, rows, PAPER)


if __name__ == "__main__":
    main()

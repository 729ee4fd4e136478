"""Ioannou et al. (2016): networks with filters of mixed shapes, and what their initialisation is worth.

Composite layers take the place of the spatial convolutions of a network in network, whose 1x1 join their filters, and
of VGG-11, where eight follow each other. Without BatchNorm, as then, a network is trained with one sigma for all of a
layer's filters and with one per group.
`python samples/low_rank/composite.py --quick` takes minutes, without it a day or more on a few cores.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from onnxlr.training.layers import CompositeConv2d, convert
from torch import nn

from experiment import FULL, QUICK, Images, Row, Settings, images, options, record, show, timed
from nin import he, nin
from vgg import vgg

if TYPE_CHECKING:
    from collections.abc import Callable

PAPER = "paper: NIN on CIFAR-10 91.88 % plain, 91.78 % composite with 54 % of the MACs"
Initialisation = Literal["shared", "per-group"]

NETWORKS: dict[str, Callable[[Settings], nn.Module]] = {
    "NIN": lambda settings: nin(settings.channels, settings.width, batchnorm=False),
    "VGG-11": lambda settings: vgg(settings.channels, settings.width),
}
KINDS: dict[str, Initialisation | None] = {
    "": None,
    ", composite, shared sigma": "shared",
    ", composite, sigma per group": "per-group",
}


def composite(layer: nn.Conv2d, initialisation: Initialisation) -> nn.Module:
    """Return a quarter of full filters, the others half horizontal, half vertical."""
    side, out = layer.kernel_size[0], layer.out_channels
    whole = out // 4
    across = (out - whole) // 2
    branches = ((1, side, across), (side, 1, out - whole - across), (side, side, whole))
    return CompositeConv2d(
        layer.in_channels, out, side, padding=side // 2, branches=branches, join=False, initialisation=initialisation
    )


def models(network: str, settings: Settings, initialisation: Initialisation | None) -> list[nn.Module]:
    """One network per seed; None: the plain one."""

    def rule(name: str, layer: nn.Module) -> nn.Module | None:
        del name
        spatial = isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
        return composite(layer, initialisation) if spatial and initialisation is not None else None

    made = []
    for seed in settings.seeds:
        torch.manual_seed(seed)
        made.append(convert(he(NETWORKS[network](settings)), rule))
    return made


def main() -> None:
    """Train the three kinds of both networks, print their tables and write them."""
    settings, cache, out = options(__doc__, replace(QUICK, seeds=FULL.seeds))  # one seed says nothing about a start
    data: Images = images(cache, settings)
    every: list[Row] = []
    for network in NETWORKS:
        rows: list[Row] = []
        for kind, initialisation in KINDS.items():
            rows.append(timed(network + kind, models(network, settings, initialisation), data, settings))
            show(settings, rows, PAPER)
        every += rows
    record(out, settings, every, PAPER)


if __name__ == "__main__":
    main()
